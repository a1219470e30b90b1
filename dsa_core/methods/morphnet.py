"""MorphNet: an L1 penalty on BatchNorm scales, weighted by the current cost of each channel."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from dsa_core.budget import Cost
from dsa_core.channels import ChannelGraph
from dsa_core.kernels.segments import segment_ids
from dsa_core.methods.penalised import Penalty, PenaltyScheme, alive_counts
from dsa_core.methods.ssl import group_norms, group_sizes
from dsa_core.scheme import Problem


class MorphNet(Penalty):
    """Shrink BatchNorm scales in proportion to the cost of their channels.

        min over w  of  L(w) + lambda sum over layers  c (in sum |gamma_out| + out sum |gamma_in|),

    where `in` and `out` are channels alive (|gamma| above `truncate`) and  c in out  is the layer's
    cost: MACs or parameters, as the budget. That equals lambda sum_i |gamma_i| dF/dn_i, which also
    covers depthwise layers and BatchNorm's own parameters. The channels alive at the end stay.

    Deviations from the paper: no expansion step, as in the DSA paper's runs; |gamma| is smoothed
    near 0 over one SGD step (`PenaltyScheme.penalty`); a channel without BatchNorm uses its
    root-mean-square weight instead of |gamma|.

    Source: Gordon et al., MorphNet, CVPR 2018 (arXiv:1711.06798), regularizers of section 4.2.
    """

    label: ClassVar[str] = "morphnet"

    def scheme(self, problem: Problem) -> "CostPenalty":
        """The penalty on scales."""
        return CostPenalty(problem, self)


class CostPenalty(PenaltyScheme):
    """MorphNet's penalty, lambda sum_i |gamma_i| dF/dn(i), at the channels currently alive."""

    def __init__(self, problem: Problem, method: MorphNet) -> None:
        super().__init__(problem, method)
        graph, device = problem.graph, problem.device
        self.groups = segment_ids(graph.offsets).to(device)
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
        """The cost of one more channel per group, as a share of the dense cost.

        A group counts at least its floor as alive: with none alive, its neighbours would cost
        nothing.
        """
        cost = self.problem.cost
        alive = alive_counts(distances, self.method.truncate, self.problem.graph)
        stay = torch.maximum(alive, self.problem.budget.least_counts(cost))
        return channel_prices(stay, cost).to(distances)[self.groups]


def channel_prices(alive: Tensor, cost: Cost) -> Tensor:
    """The slope dF/dn_k of the cost in the channels alive of every group, float64, shape (K,).

    For a convolution with `in` and `out` channels alive F = c in out, so the sum over channels of
    gate * slope is MorphNet's  c (in sum|gamma_out| + out sum|gamma_in|).
    """
    sizes = cost.sizes.double()
    return cost.relative.gradient(alive.double() / sizes) / sizes


def largest_scales(parameters: Mapping[str, Tensor], graph: ChannelGraph) -> Tensor:
    """The largest |gamma| over all BatchNorms that hold a channel, shape (n,); -1 if there is none.

    A channel is alive if any of its scales is, so the largest decides; the gradient goes to that
    scale alone (shared between equals).
    """
    some = next(iter(parameters.values()))
    found = torch.full((graph.n_channels,), -1.0, device=some.device)
    for norm in graph.norms:
        here = norm.channels.to(found.device)
        gamma = parameters[norm.weight].abs().float()
        found = found.scatter_reduce(0, here[here >= 0], gamma[here >= 0], "amax")
    return found
