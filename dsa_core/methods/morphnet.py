"""MorphNet: an L1 penalty on BatchNorm's scales, each weighed by what its channel costs now."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dsa_core.allocation import Allocation
from dsa_core.budget import Budget
from dsa_core.channels import ChannelGraph
from dsa_core.methods.config import OnStep, SearchConfig, SearchData
from dsa_core.methods.penalised import PenaltyScheme, Trials, alive_counts
from dsa_core.methods.problem import Problem
from dsa_core.methods.settings.morphnet import MorphNetSettings
from dsa_core.methods.ssl import group_norms, group_sizes


class CostPenalty(PenaltyScheme):
    """MorphNet's penalty, lambda sum_i |gamma_i| dF/dn(i), at the channels alive now.

    Args:
        problem: what is searched.
        strength: see `PenaltyScheme`.
        settings: of MorphNet.
    """

    def __init__(self, problem: Problem, strength: float, settings: MorphNetSettings) -> None:
        graph, device = problem.graph, problem.device
        groups = torch.arange(len(graph.sizes))
        self.groups = torch.repeat_interleave(groups, graph.sizes).to(device)
        self.sizes = group_sizes(graph, graph.makers).to(device)
        super().__init__(problem, strength, truncate=settings.truncate)

    def distances(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The largest |gamma| of every channel; without BatchNorm its root-mean-square weight."""
        graph = self.problem.graph
        scales = largest_scales(parameters, graph)
        if bool((scales >= 0).all()):
            return scales
        norms = group_norms(parameters, graph, graph.makers) / self.sizes.sqrt()
        return torch.where(scales >= 0, scales, norms)

    def pulls(self, distances: Tensor) -> Tensor:
        """What one more channel costs beside those that stay, of the dense cost.

        Of a group with fewer alive than its floor, the floor stays: none is ever without channels,
        or its neighbours would cost nothing.
        """
        alive = alive_counts(distances, self.truncate, self.problem)
        least = self.problem.budget.least_counts(self.problem.cost)
        stay = torch.maximum(alive, least)
        return channel_prices(stay, self.problem).to(distances)[self.groups]


def channel_prices(alive: Tensor, problem: Problem) -> Tensor:
    """The slope of the cost in the number of channels of every group.

    For a convolution with `in` and `out` channels alive F = c in out, so that the sum over channels
    of gate * slope is MorphNet's  c (in sum|gamma_out| + out sum|gamma_in|).

    Args:
        alive: channels alive, int64, shape (K,).
        problem: gives the cost, as a ratio of the dense one.

    Returns:
        dF/dn_k, float64, shape (K,).
    """
    sizes = problem.cost.sizes.double()
    return problem.form.gradient(alive.double() / sizes) / sizes


def largest_scales(parameters: Mapping[str, Tensor], graph: ChannelGraph) -> Tensor:
    """The largest |gamma| over all BatchNorms that hold a channel, shape (n,); -1 if there is none.

    A channel of a group is alive if any of its scales is, so that the largest one decides; the
    gradient goes to it alone (to equals alike).
    """
    some = next(iter(parameters.values()))
    found = torch.full((graph.n_channels,), -1.0, device=some.device)
    for norm in graph.norms:
        here = norm.channels.to(found.device)
        gamma = parameters[norm.weight].abs().float()
        found = found.scatter_reduce(0, here[here >= 0], gamma[here >= 0], "amax")
    return found


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
    """Search by MorphNet: shrink BatchNorm's scales by what their channels cost.

        min over w  of  L(w) + lambda sum over layers  c (in sum |gamma_out| + out sum |gamma_in|),

    `in` and `out` being channels alive (|gamma| above `morphnet.truncate`) and c in `out` the
    layer's cost: its MACs for a budget of MACs, its parameters for one of parameters. That is
    lambda sum_i |gamma_i| dF/dn_i, which covers depthwise layers and BatchNorm's own parameters
    too. After the training the channels alive stay; lambda is searched until they meet the budget
    (`Trials`).

    Deviations from the paper: no expansion step, as DSA's authors ran it; |gamma| is rounded off at
    0 by one step of SGD (`PenaltyScheme.penalty`); a channel without BatchNorm has its
    root-mean-square weight in place of |gamma|.

    Args:
        model: dense network on its device; it is trained in place, and has the weights of the trial
            taken.
        graph: of the model.
        budget: to come out at, or just below; it may be missed.
        data: batches for the weights; `ratios` is not read.
        config: how to search; `config.morphnet` is MorphNet's own. All but `train`, `warmup_epochs`
            and `ratio_every` (from look to look) has no meaning here.
        seed: of what the network itself draws, such as dropout.
        on_step: called with every look at the channels alive; True ends the search at once.

    Source: Gordon et al., MorphNet, CVPR 2018 (arXiv:1711.06798), regularizers of section 4.2.
    """
    problem = Problem("morphnet", model, graph, budget, data, config, seed)
    settings = config.morphnet or MorphNetSettings()
    return Trials(problem, lambda s: CostPenalty(problem, s, settings), settings).run(on_step)
