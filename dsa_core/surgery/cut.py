"""Cut channels out of a network: the same classes, smaller tensors."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from dsa_core.channels import ChannelGraph, check_fits
from dsa_core.channels.export import failing_module, first_line
from dsa_core.channels.remedies import Width
from dsa_core.channels.stand_ins import stand_in_where_cut
from dsa_core.errors import SurgeryError
from dsa_core.example import Call
from dsa_core.surgery.reconstruct import reconstruct as refit
from dsa_core.training.evaluate import mode

COMPUTING = (BasePruningMethod, WeightNorm, SpectralNorm)  # hooks that set a weight
CUTS = "_channel_cuts"  # attribute of a pruned network; copies of it carry it too


def prune(
    model: nn.Module,
    graph: ChannelGraph,
    keep: Tensor,
    *,
    reconstruct: Iterable[Any] | None = None,
    progress: bool = True,
) -> nn.Module:
    """Return a smaller copy of a network, of the same classes; the given one is not touched.

    Attention whose forward does not take its widths from its weights gets one that does
    (`nn.MultiheadAttention`, torchvision's Swin; see `dsa_core.channels.stand_ins`).

    The pruned network computes what the dense one computes with the dropped channels masked at
    their consumers, to float tolerance.

    Args:
        model: the network that was traced into `graph`.
        keep: which prunable channels stay, bool, shape (graph.n_channels,).
        reconstruct: batches by which the weights are refitted, so that every layer computes what
            the given network's does, see `surgery.reconstruct`; None leaves them.
        progress: show a bar of that.

    Raises:
        SurgeryError: a group would lose all its channels, or `keep` or the model does not fit the
            graph.
    """
    check_fits(model, graph)
    check_keep(graph, keep)
    pruned = duplicate(model)
    always = torch.cat([keep.cpu(), torch.ones(1, dtype=torch.bool)])  # place -1: stays
    done: dict[int, Tensor] = {}  # by the id of what was cut, and of what it became
    alive: list[Tensor] = []  # so that no id is given twice
    for name, by_axis in graph.axes.items():
        owner, _, attribute = name.rpartition(".")
        module = pruned.get_submodule(owner)
        tensor = getattr(module, attribute)
        if id(tensor) not in done:
            new = cut(tensor, by_axis, always)
            done[id(tensor)] = done[id(new)] = new
            alive.append(tensor)
        setattr(module, attribute, done[id(tensor)])
    stand_in_where_cut(pruned, graph.axes)
    with mode(pruned, training=False):  # else a spectral norm counts every look at its weight
        for module in pruned.modules():
            resize(module)
    for name, width in graph.remedies.attributes.items():
        set_width(pruned, name, width, graph.axes.get(width.tensor, {}).get(width.axis), always)
    setattr(pruned, CUTS, (*cuts_of(model), cut_made(graph, keep)))
    if reconstruct is not None:
        refit(pruned, model, graph, keep, reconstruct, progress=progress)
    return pruned


def cut_made(graph: ChannelGraph, keep: Tensor) -> dict[str, Any]:
    """What was cut, as plain data for JSON: the kept channels of every group, and the example that
    the groups were traced with."""
    groups = {
        g.name: {"size": g.size, "kept": keep[g.start : g.start + g.size].nonzero()[:, 0].tolist()}
        for g in graph.prunable
    }
    return {
        "example": graph.example,
        "groups": groups,
        "remedies": graph.remedies.model_dump(mode="json"),
    }


def cuts_of(model: nn.Module) -> tuple[dict[str, Any], ...]:
    """Every cut that made a network from its dense one, first to last; `prune` notes them on it."""
    return tuple(getattr(model, CUTS, ()))


def check_keep(graph: ChannelGraph, keep: Tensor) -> None:
    """Refuse a choice of channels that does not fit the graph."""
    if not isinstance(keep, Tensor) or keep.dtype != torch.bool:
        raise SurgeryError(
            f"keep must be a bool tensor of shape ({graph.n_channels},), one entry for each "
            f"prunable channel; got {what_came(keep)}"
        )
    if keep.shape != (graph.n_channels,):
        raise SurgeryError(
            f"keep must have the shape ({graph.n_channels},), one entry for each prunable channel; "
            f"got {tuple(keep.shape)}"
        )
    for group in graph.prunable:
        if not keep[group.start : group.start + group.size].any():
            raise SurgeryError(
                f"group {group.name} would keep none of its {group.size} channels: keep one at "
                "least, or remove the layers yourself"
            )


def what_came(keep: Any) -> str:
    """What was given in place of a choice of channels, and how to make one of it."""
    if isinstance(keep, Tensor):
        return (
            f"{keep.dtype} of shape {tuple(keep.shape)}. For a mask of zeros and ones pass "
            "mask > 0.5; for counts, or any choice by importance, see top_channels"
        )
    if isinstance(getattr(keep, "keep", None), Tensor):
        return f"the {type(keep).__name__} itself: pass its .keep"
    return f"a {type(keep).__name__}: torch.as_tensor(keep, dtype=torch.bool) makes a tensor of it"


def duplicate(model: nn.Module) -> nn.Module:
    """A copy that shares nothing with the network; computed tensors that it holds are values."""
    held = [v for m in model.modules() for v in vars(m).values() if isinstance(v, Tensor)]
    try:
        return copy.deepcopy(model, {id(v): v.detach().clone() for v in held if not v.is_leaf})
    except (RuntimeError, TypeError) as error:
        raise SurgeryError(f"the network cannot be copied: {first_line(error)}") from error


def cut(tensor: Tensor, by_axis: dict[int, Tensor], always: Tensor) -> Tensor:
    """Keep the positions of each axis whose channel stays."""
    result = tensor.detach()
    for axis, channels in by_axis.items():
        result = result.index_select(axis, always[channels].nonzero()[:, 0].to(tensor.device))
    result = result.clone(memory_format=torch.preserve_format)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(result, tensor.requires_grad)
    return result


def resize(module: nn.Module) -> None:
    """Make a module's own numbers agree with the tensors it holds."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, COMPUTING):
            hook(module, ())
    weight = getattr(module, "weight", None)
    if weight is None:  # a BatchNorm without scale still has its statistics
        weight = getattr(module, "running_mean", None)
    if not isinstance(weight, Tensor):
        return
    if isinstance(module, nn.modules.conv._ConvNd):
        resize_convolution(module, weight)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        module.num_features = len(weight)
    elif isinstance(module, nn.GroupNorm):
        size = module.num_channels // module.num_groups
        module.num_channels, module.num_groups = len(weight), len(weight) // size
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(weight)


def set_width(
    model: nn.Module, name: str, width: Width, channels: Tensor | None, always: Tensor
) -> None:
    """Set what stands for the length of an axis, which has these channels, in a module."""
    if channels is None:
        return
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    found, wanted = vars(module).get(attribute), width.of(torch.ones(len(channels)))
    listed = list(found) if isinstance(found, tuple) else found
    if listed != wanted or isinstance(found, float | bool):
        raise SurgeryError(
            f"{name} must be {wanted}, a number of channels; it is {found!r}: the model is not the "
            "one that was traced"
        )
    new = width.of(always[channels])
    setattr(module, attribute, tuple(new) if isinstance(found, tuple) else new)  # type: ignore[arg-type]


def resize_convolution(conv: nn.modules.conv._ConvNd, weight: Tensor) -> None:
    """Channels of a convolution; a depthwise one has as many groups as input channels."""
    if conv.groups == conv.in_channels > 1:  # depthwise
        multiplier = conv.out_channels // conv.in_channels
        conv.in_channels = len(weight) // (1 if conv.transposed else multiplier)
        conv.groups, conv.out_channels = conv.in_channels, conv.in_channels * multiplier
        return
    rows, columns = weight.shape[0], weight.shape[1] * conv.groups
    if conv.transposed:
        conv.in_channels, conv.out_channels = rows, columns
    else:
        conv.out_channels, conv.in_channels = rows, columns


def try_forward(model: nn.Module, example: Any) -> Any:
    """Run a pruned network once, without touching its statistics.

    Args:
        model: the network; it is left as it was.
        example: what it is called with, in any form that `trace` takes.

    Raises:
        SurgeryError: it cannot run (a width written into some `forward`, say); names the module and
            the line.
    """
    call = Call.of(example)
    try:
        with torch.no_grad(), mode(model, training=False):
            return call(model)
    except Exception as error:
        where = failing_module(model, error)
        raise SurgeryError(
            f"the pruned network cannot run: {where}: {error}. A width is probably written into "
            "that forward: take it from the tensor's shape, or keep the group by a floor of 1"
        ) from error
