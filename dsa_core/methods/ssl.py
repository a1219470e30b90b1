"""Structured sparsity learning: a group lasso on the weights of every channel."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dsa_core.allocation import Allocation
from dsa_core.budget import Budget
from dsa_core.channels import ChannelGraph
from dsa_core.methods.config import OnStep, SearchConfig, SearchData
from dsa_core.methods.penalised import PenaltyScheme, Trials
from dsa_core.methods.problem import Problem
from dsa_core.methods.settings.ssl import Members, SSLSettings
from dsa_core.ranking import add_at

Slice = tuple[str, int, Tensor]
SMALLEST = 1e-12  # of a squared norm: the square root has no slope at 0


class GroupLasso(PenaltyScheme):
    """SSL's penalty, lambda sum_g ||w_g||_2, one group g of weights for every channel.

    Args:
        problem: what is searched.
        strength: see `PenaltyScheme`.
        settings: of SSL.
    """

    def __init__(self, problem: Problem, strength: float, settings: SSLSettings) -> None:
        self.slices = slices_of(problem.graph, settings.members)
        self.sizes = group_sizes(problem.graph, self.slices).to(problem.device)
        super().__init__(problem, strength, truncate=settings.truncate)

    def distances(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """||w_g||_2 of every channel."""
        return group_norms(parameters, self.problem.graph, self.slices)

    def gates(self, distances: Tensor) -> Tensor:
        """The root-mean-square weight of every channel, ||w_g||_2 / sqrt(size of g)."""
        return distances / self.sizes.sqrt()


def slices_of(graph: ChannelGraph, members: Members) -> tuple[Slice, ...]:
    """Where the weights of every channel lie: (weight, axis, flat channel of each position).

    Beside the filters that make it, what acts on it alone: biases, depthwise filters, and the scale
    and shift of BatchNorm.
    """
    weights = {name for name, _, _ in (*graph.makers, *graph.consumers)}
    alone = [
        (name, 0, axes[0])
        for name, axes in graph.axes.items()
        if 0 in axes and name in graph.parameters and name not in weights
    ]
    return {
        "filters": graph.makers,
        "makers": (*graph.makers, *alone),
        "all": (*graph.makers, *alone, *graph.consumers),
    }[members]


def group_norms(
    parameters: Mapping[str, Tensor], graph: ChannelGraph, slices: tuple[Slice, ...]
) -> Tensor:
    """||w_g||_2 of every channel's weights over all the tensors in which it has some.

    Args:
        parameters: by name.
        graph: of the network.
        slices: (weight, axis, flat channel of each position).

    Returns:
        Shape (n,), differentiable; where all weights are 0 the slope is 0.
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


def allocate(
    model: nn.Module,
    graph: ChannelGraph,
    budget: Budget,
    data: SearchData,
    config: SearchConfig,
    *,
    seed: int,
    on_step: OnStep | None = None,
) -> Allocation:
    """Search by SSL: empty channels by a group lasso, remove the empty ones, repeat for the budget.

        min over w  of  L(w) + lambda sum_g ||w_g||_2,

    w_g being the weights that make one channel, over all layers of its channel group: filters,
    biases, and the scale and shift of BatchNorm. After the training a channel is removed whose
    root-mean-square weight is below `ssl.truncate`; lambda is searched until the rest meets the
    budget (`Trials`).

    Deviations from the paper: its groups are filters alone, but with a BatchNorm behind them these
    shrink all alike and none empties (`SSLSettings.members`, "filters", does it); groups span the
    layers tied by a channel group; the norm is rounded off at 0 by one step of SGD
    (`PenaltyScheme.penalty`). To which norm the threshold of 1e-3 applies is not stated: a filter's
    own norm grows with its size, so that here it is the root-mean-square weight.

    Args:
        model: dense network on its device; it is trained in place, and has the weights of the trial
            taken.
        graph: of the model.
        budget: to come out at, or just below; it may be missed.
        data: batches for the weights; `ratios` is not read.
        config: how to search; `config.ssl` is SSL's own. All but `train`, `warmup_epochs` and
            `ratio_every` (from look to look) has no meaning here.
        seed: of what the network itself draws, such as dropout.
        on_step: called with every look at the channels alive; True ends the search at once.

    Source: Wen et al., Learning structured sparsity in deep neural networks, NeurIPS 2016
        (arXiv:1608.03665).
    """
    problem = Problem("ssl", model, graph, budget, data, config, seed)
    settings = config.ssl or SSLSettings()
    return Trials(problem, lambda s: GroupLasso(problem, s, settings), settings).run(on_step)
