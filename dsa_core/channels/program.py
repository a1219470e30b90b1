"""The graph of operators of a network, and how to run the network without leaving a trace in it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.fx import Graph, GraphModule, Node

from dsa_core.errors import TraceError
from dsa_core.example import tensors_in


@dataclass(frozen=True)
class Program:
    """Every operator of one forward pass, in order.

    Attributes:
        graph: calls of ATen's operators; `meta["val"]` holds what each returns, tensors without
            data. What it returns is the flat list of the tensors that the network returns.
        inputs: its placeholders: what each stands for, and of a parameter or buffer its name.
        owner: holds constants and the bodies of regions; None if the graph has none.
    """

    graph: Graph
    inputs: Mapping[Node, tuple[InputKind, str]]
    owner: GraphModule | None = None


def name_of_module(node: Node) -> str:
    """The path of the module that a node of the graph belongs to, '' at the top."""
    stack = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    return path.removeprefix("L['self'].").removeprefix("L['self']")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The network in evaluation mode for the length of a block; each module's mode comes back."""
    modes = {m: m.training for m in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Whatever a forward pass sets in the network's modules is as before after a block: a weight
    that a hook computes anew (the old weight_norm, torch.nn.utils.prune), a buffer, a counter."""
    own = [values for m in model.modules() for values in (vars(m), m._parameters, m._buffers)]
    found = [dict(values) for values in own]
    try:
        yield
    finally:
        for values, kept in zip(own, found, strict=True):
            values.clear()
            values.update(kept)


def returned(model: nn.Module, output: Any) -> list[Tensor]:
    """The tensors that a network returns, which need not be known to torch's pytree."""
    found = tensors_in(output)
    if not found:
        raise TraceError(
            f"{type(model).__name__} returns a {type(output).__name__} that holds no tensor: let "
            "its forward return a tensor, or a tuple, dict or dataclass of them"
        )
    return found
