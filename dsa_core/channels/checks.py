"""What a network must be before its channels can be followed, and whether it is the traced one."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from dsa_core.channels.graph import ChannelGraph
from dsa_core.errors import SurgeryError, TraceError
from dsa_core.example import Call


def check_traceable(model: Any) -> None:
    """Refuse what tracing could only misread.

    Raises:
        TraceError: it is no module, a submodule is compiled by `torch.jit` or has uninitialised
            parameters, or two parameters share memory; names it and the remedy.
    """
    if not isinstance(model, nn.Module):
        raise TraceError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        where = f"{name or 'the network'} ({type(module).__name__})"
        if isinstance(module, torch.jit.ScriptModule):
            raise TraceError(
                f"{where} is compiled by torch.jit, which can neither be followed nor cut: give "
                "the network as it was before torch.jit.script or torch.jit.trace"
            )
        for parameter in module.parameters(recurse=False):
            if isinstance(parameter, nn.parameter.UninitializedParameter):
                raise TraceError(
                    f"{where} has parameters without a shape: run the network once, model(example)"
                )
    check_memory(model)


def check_memory(model: nn.Module) -> None:
    """Refuse two parameters in the same memory: a copy would tear them apart."""
    places = sorted(
        (str(p.device), p.data_ptr(), p.data_ptr() + span(p) * p.element_size(), name)
        for name, p in model.named_parameters()
        if p.numel() and not p.is_meta
    )
    for (here, _, end, one), (there, start, _, other) in pairwise(places):
        if here == there and start < end:
            raise TraceError(
                f"{one} and {other} are two parameters in the same memory, which a copy would "
                "separate: assign the Parameter itself, not its .data"
            )


def span(tensor: Tensor) -> int:
    """Elements between the first and the last of a tensor, both counted."""
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    return 1 + sum((size - 1) * stride for size, stride in pairs)


def check_device(model: nn.Module, call: Call) -> None:
    """Refuse an example of which no tensor is on a device of the network."""
    own = {str(p.device) for p in model.parameters()}
    given = {str(t.device) for t in call.tensors.values()}
    if own and not own & given:
        raise TraceError(
            f"example is on {', '.join(sorted(given))}, the network on {', '.join(sorted(own))}: "
            "move one of them, so that both are on the same device"
        )


def check_fits(model: nn.Module, graph: ChannelGraph) -> None:
    """Refuse a network that is not the one that was traced, by the shapes of all it holds.

    Raises:
        SurgeryError: a parameter or buffer is missing, is new, or has another shape; names it.
    """
    if not isinstance(model, nn.Module):
        raise SurgeryError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(graph, ChannelGraph):
        raise SurgeryError(
            f"graph must be the ChannelGraph that trace(model, example) gives, got "
            f"{type(graph).__name__}"
        )
    own = {name: tuple(p.shape) for name, p in model.named_parameters()}
    for name in [*graph.parameters, *own]:
        found, wanted = own.get(name), graph.parameters.get(name)
        if found != wanted:
            raise other_network(f"parameter {name!r}", wanted or "none", found or "none")
    state: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    state |= dict(model.named_buffers(remove_duplicate=False))
    for name, by_axis in graph.axes.items():  # buffers, and the other names of tied parameters
        for axis, channels in by_axis.items():
            positions = state[name].shape[axis] if name in state else "no such tensor"
            if positions != len(channels):
                raise other_network(f"{name!r}, axis {axis}", len(channels), positions)


def other_network(what: str, wanted: object, found: object) -> SurgeryError:
    """The error of a network that does not fit a graph."""
    return SurgeryError(
        f"{what}: the graph has {wanted}, the model {found}: the model is not the one that was "
        "traced, or it was pruned, masked or parametrized since; trace it again"
    )
