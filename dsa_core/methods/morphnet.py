"""MorphNet: an L1 penalty on BatchNorm's scales, each weighed by what its channel costs now."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from dsa_core.budget import Cost
from dsa_core.channels import ChannelGraph
from dsa_core.methods.penalised import Penalty, PenaltyScheme, alive_counts
from dsa_core.methods.ssl import group_norms, group_sizes
from dsa_core.scheme import Problem


class MorphNet(Penalty):
    """Shrink BatchNorm's scales by what their channels cost.

        min over w  of  L(w) + lambda sum over layers  c (in sum |gamma_out| + out sum |gamma_in|),

    `in` and `out` being channels alive (|gamma| above `truncate`) and c in `out` the layer's cost:
    its MACs for a budget of MACs, its parameters for one of parameters. That is
    lambda sum_i |gamma_i| dF/dn_i, which covers depthwise layers and BatchNorm's own parameters
    too. After the training the channels alive stay.

    Deviations from the paper: no expansion step, as DSA's authors ran it; |gamma| is rounded off at
    0 by one step of SGD (`PenaltyScheme.penalty`); a channel without BatchNorm has its
    root-mean-square weight in place of |gamma|.

    Source: Gordon et al., MorphNet, CVPR 2018 (arXiv:1711.06798), regularizers of section 4.2.
    """

    label: ClassVar[str] = "morphnet"

    def scheme(self, problem: Problem) -> "CostPenalty":
        """The penalty on scales."""
        return CostPenalty(problem, self)


class CostPenalty(PenaltyScheme):
    """MorphNet's penalty, lambda sum_i |gamma_i| dF/dn(i), at the channels alive now."""

    def __init__(self, problem: Problem, method: MorphNet) -> None:
        super().__init__(problem, method)
        graph, device = problem.graph, problem.device
        groups = torch.arange(len(graph.sizes))
        self.groups = torch.repeat_interleave(groups, graph.sizes).to(device)
        self.sizes = group_sizes(graph, graph.producers).to(device)

    def distances(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The largest |gamma| of every channel; without BatchNorm its root-mean-square weight."""
        graph = self.problem.graph
        scales = largest_scales(parameters, graph)
        if bool((scales >= 0).all()):
            return scales
        norms = group_norms(parameters, graph, graph.producers) / self.sizes.sqrt()
        return torch.where(scales >= 0, scales, norms)

    def pulls(self, distances: Tensor) -> Tensor:
        """What one more channel costs beside those that stay, of the dense cost.

        Of a group with fewer alive than its floor, the floor stays: none is ever without channels,
        or its neighbours would cost nothing.
        """
        cost = self.problem.cost
        alive = alive_counts(distances, self.method.truncate, self.problem.graph)
        stay = torch.maximum(alive, self.problem.budget.least_counts(cost))
        return channel_prices(stay, cost).to(distances)[self.groups]


def channel_prices(alive: Tensor, cost: Cost) -> Tensor:
    """The slope of the cost in the number of channels of every group.

    For a convolution with `in` and `out` channels alive F = c in out, so that the sum over channels
    of gate * slope is MorphNet's  c (in sum|gamma_out| + out sum|gamma_in|).

    Args:
        alive: channels alive, int64, shape (K,).
        cost: of the network.

    Returns:
        dF/dn_k, float64, shape (K,).
    """
    sizes = cost.sizes.double()
    return cost.relative.gradient(alive.double() / sizes) / sizes


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
