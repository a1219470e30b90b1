"""Structured sparsity learning: a group lasso on the weights of every channel."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dsa_core.channels import ChannelGraph
from dsa_core.methods.penalised import Penalty, PenaltyScheme
from dsa_core.ranking import add_at
from dsa_core.scheme import Problem

Members = Literal["filters", "producers", "all"]
Slice = tuple[str, int, Tensor]
SMALLEST = 1e-12  # of a squared norm: the square root has no slope at 0


class SSL(Penalty):
    """Empty channels by a group lasso, remove the empty ones.

        min over w  of  L(w) + lambda sum_g ||w_g||_2,

    where w_g holds the weights that produce one channel, over all layers of its channel group:
    filters, biases, and the scale and shift of BatchNorm. After the training, channels whose
    root-mean-square weight is below `truncate` are removed.

    Deviations from the paper: its groups are filters alone (`members="filters"`), but when followed
    by BatchNorm all filters shrink alike and none empties; groups span the layers tied by a channel
    group; the norm is smoothed near 0 over one SGD step (`PenaltyScheme.penalty`). The paper does
    not say which norm its threshold of 1e-3 applies to; a filter's norm grows with its size, so
    here it is the root-mean-square weight.

    Attributes:
        members: which weights form the penalised group of a channel. "filters": one filter of every
            layer that produces it; "producers": also its BatchNorm scale and shift, without which
            the penalty has no effect, since BatchNorm undoes any scale of a filter; "all": also
            the weights that read it.

    Source: Wen et al., Learning structured sparsity in deep neural networks, NeurIPS 2016
        (arXiv:1608.03665).
    """

    label: ClassVar[str] = "ssl"

    members: Members = "producers"

    def scheme(self, problem: Problem) -> "GroupLasso":
        """The group lasso."""
        return GroupLasso(problem, self)


class GroupLasso(PenaltyScheme):
    """SSL's penalty, lambda sum_g ||w_g||_2, one group g of weights for every channel."""

    def __init__(self, problem: Problem, method: SSL) -> None:
        super().__init__(problem, method)
        self.slices = slices_of(problem.graph, method.members)
        self.sizes = group_sizes(problem.graph, self.slices).to(problem.device)

    def distances(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """||w_g||_2 of every channel."""
        return group_norms(parameters, self.problem.graph, self.slices)

    def gates(self, distances: Tensor) -> Tensor:
        """The root-mean-square weight of every channel, ||w_g||_2 / sqrt(size of g)."""
        return distances / self.sizes.sqrt()


def slices_of(graph: ChannelGraph, members: Members) -> tuple[Slice, ...]:
    """Where the weights of every channel lie: (weight, axis, flat channel of each position).

    What acts on it alone: biases, depthwise filters, and the scale and shift of BatchNorm.
    """
    weights = {name for name, _, _ in (*graph.producers, *graph.consumers)}
    alone = [
        (name, 0, axes[0])
        for name, axes in graph.axes.items()
        if 0 in axes and name in graph.parameters and name not in weights
    ]
    return {
        "filters": graph.producers,
        "producers": (*graph.producers, *alone),
        "all": (*graph.producers, *alone, *graph.consumers),
    }[members]


def group_norms(
    parameters: Mapping[str, Tensor], graph: ChannelGraph, slices: tuple[Slice, ...]
) -> Tensor:
    """||w_g||_2 of every channel's weights over all the tensors in which it has some, (n,).

    Differentiable; the gradient is 0 where all weights are 0.
    """
    some = next(iter(parameters.values()))
    squares = torch.zeros(graph.n_channels, device=some.device)
    for name, axis, channels in slices:
        rows = parameters[name].float().movedim(axis, 0).reshape(len(channels), -1)
        add_at(squares, channels, rows.square().sum(1))
    return squares.clamp_min(SMALLEST).sqrt()


def group_sizes(graph: ChannelGraph, slices: tuple[Slice, ...]) -> Tensor:
    """How many weights each channel's group has, float32, shape (n,)."""
    shapes = {name: torch.ones(graph.parameters[name]) for name, _, _ in slices}
    return group_norms(shapes, graph, slices).square().round()
