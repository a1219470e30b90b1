"""Weights that the forward computes from parameters: weight_norm, spectral_norm, masks, any
parametrization. What computes them is not followed; they are cut at their sources, and the trial
cut tells whether that is right (see `dsa_core.tracing`)."""

from collections.abc import Collection

import torch
from torch import Tensor
from torch.fx import Graph, Node

from dsa_core.channels.ids import NO_CHANNEL, Ids
from dsa_core.channels.opcall import StateIds

LAYERS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
          "linear")  # fmt: skip


class Computed(Ids):
    """A computed weight: no ids of its own, but its sources."""

    def __init__(self, shape: tuple[int, ...], sources: list[StateIds]) -> None:
        object.__setattr__(self, "base", torch.full((1,) * len(shape), NO_CHANNEL))
        object.__setattr__(self, "shape", shape)
        self.__dict__["sources"] = sources

    @property
    def name(self) -> str | None:
        """The source of the weight's own shape, which stands for it; None if there is none."""
        sources: list[StateIds] = self.__dict__["sources"]
        return next((s.name for s in sources if s.shape == self.shape), None)

    def marks(self, rows: Tensor, columns: Tensor | None) -> list[tuple[str, int, Tensor]]:
        """(source, axis, ids) wherever a source's axes look like the weight's first two.

        Args:
            rows, columns: ids along the weight's first and second axis; a bias has only one.
        """
        found = []
        for source in self.__dict__["sources"]:
            lines = [rows] if columns is None else [rows, columns]
            if columns is not None and len(source.shape) == 1 and len(rows) != source.shape[0]:
                lines = [columns.repeat_interleave(max(source.shape[0] // len(columns), 1))]
            for axis, line in enumerate(lines[: len(source.shape)]):
                if len(line) == source.shape[axis] > 1:
                    found.append((source.name, axis, line))
        return found


def recipes(graph: Graph, states: Collection[Node]) -> tuple[dict[Node, list[Node]], set[Node]]:
    """Find the weights that are computed from parameters and buffers and used as weights alone.

    Args:
        states: the graph's parameters and buffers.

    Returns:
        Each such node with its sources, and all nodes that take part in computing them.
    """
    states, constant = set(states), set(states)
    for node in graph.nodes:
        inputs = node.all_input_nodes
        if node.op == "call_function" and inputs and constant.issuperset(inputs):
            constant.add(node)
    computed = constant - states
    weights: dict[Node, list[Node]] = {}
    inside: set[Node] = set()
    for node in graph.nodes:
        for weight in node.args[1:] if is_layer(node) else ():
            if isinstance(weight, Node) and weight in computed and not turns(weight):
                cone = ancestors(weight)
                if all(is_weight(user, at) or user in cone for at in cone for user in at.users):
                    used = (n for n in graph.nodes if n in states)  # parameters first
                    weights[weight] = [n for n in used if n.users.keys() & cone]
                    inside |= cone
    return weights, inside


def turns(node: Node) -> bool:
    """Whether a node transposes a parameter: that is followed."""
    return operator(node) in ("t", "numpy_T", "mT", "transpose", "permute") and all(
        n.op == "placeholder" for n in node.all_input_nodes
    )


def operator(node: Node) -> str:
    """The name of the operator of a node, or nothing."""
    return str(getattr(getattr(node.target, "_schema", None), "name", "")).removeprefix("aten::")


def is_layer(node: Node) -> bool:
    """Whether a node is a layer that may have a computed weight."""
    return operator(node) in LAYERS


def is_weight(user: Node, node: Node) -> bool:
    """Whether a layer reads a node as its weight or bias, and not as what it transforms."""
    return is_layer(user) and user.args[0] is not node


def ancestors(node: Node) -> set[Node]:
    """A node and all that it is computed from, without what the graph is given."""
    found, waiting = set(), [node]
    while waiting:
        at = waiting.pop()
        if at.op != "placeholder" and at not in found:
            found.add(at)
            waiting += at.all_input_nodes
    return found
