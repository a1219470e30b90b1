"""DTP at the granularity of single weights."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dsa_core.allocation import Allocation
from dsa_core.budget import Budget, Cost, round_to_channels
from dsa_core.channels import ChannelGraph
from dsa_core.methods.config import OnStep, SearchConfig, SearchData
from dsa_core.methods.dtp import TransportScheme
from dsa_core.methods.dtp_units import Weights, keep_most
from dsa_core.methods.problem import Problem
from dsa_core.methods.search import search


class WeightScheme(TransportScheme):
    """Single weights have the scores; every channel stays."""

    def __init__(self, problem: Problem) -> None:
        self.weight_units = Weights(problem)
        super().__init__(problem, self.weight_units)

    @property
    def keep_ratios(self) -> Tensor:
        """Of the channels: all stay."""
        return torch.ones(len(self.problem.graph.prunable), dtype=torch.float64)

    def importance(self) -> Tensor:
        """Of the channels, which are not ranked here."""
        return torch.ones(self.problem.graph.n_channels)

    def counts(self) -> Tensor:
        """All channels."""
        return self.problem.graph.sizes

    def weight_mask(self) -> dict[str, Tensor]:
        """Which weights stay, by tensor, bool, on the CPU; exactly as many as the budget allows."""
        units = self.weight_units
        counts = round_to_channels(self.ratios, units.cost, self.problem.budget)
        keep = keep_most(self.ranking(), counts, self.offsets)
        return units.by_tensor(keep.cpu())

    def notes(self) -> dict[str, Any]:
        """And the share of every tensor that stays."""
        density = {f"density {k}": float(m.double().mean()) for k, m in self.weight_mask().items()}
        return super().notes() | {"granularity": "weight"} | density


def nonzero_macs(graph: ChannelGraph, weight_mask: Mapping[str, Tensor]) -> int:
    """MACs of one example whose weight is not zero.

    What hardware for sparse weights could save at most. A dense convolution still does all of them.

    Args:
        graph: of the network.
        weight_mask: weight -> which entries stay; a layer that is not named is counted whole.
    """
    total = graph.fixed_macs
    for layer in graph.layers:
        macs = layer.coefficient * layer.shape[0] * layer.shape[1]
        mask = weight_mask.get(layer.weight)
        total += macs if mask is None else macs * int(mask.sum()) // mask.numel()
    return total


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
    """Search which single weights stay by DTP; everything else as in `dtp.allocate`.

    All channels stay, and so does the time of a dense convolution: what falls is the number of
    parameters that are not zero, to the number that the budget allows, to the last one. Biases and
    normalisations are not pruned, but count.

    Args:
        model: dense network on its device; it is trained in place.
        graph: of the model.
        budget: to reach, of parameters.
        data: batches for weights and scores.
        config: how to search; `config.dtp` is the method's own.
        seed: of the order of the batches; the masks draw nothing.
        on_step: called with every look at the budget; True ends the search at once.

    Returns:
        An allocation with a `weight_mask`.

    Raises:
        BudgetError: the budget is of MACs, has a divisor, or is below what cannot be pruned.

    Source: Li et al., DTP, ICCV 2023 (arXiv:2307.08483), unstructured pruning.
    """
    problem = Problem("dtp-weight", model, graph, budget, data, config, seed)
    scheme = WeightScheme(problem)
    found = search(problem, scheme, on_step)
    mask = scheme.weight_mask()
    share = nonzero_macs(graph, mask) / Cost.of(graph, "macs").dense
    return replace(found, weight_mask=mask, notes=found.notes | {"nonzero_macs_ratio": share})
