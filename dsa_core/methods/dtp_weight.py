"""DTP at the granularity of single weights."""

from collections.abc import Mapping
from math import prod
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from dsa_core.allocation import Allocation
from dsa_core.budget import Budget, Cost, QuadraticForm, Resource, round_to_channels
from dsa_core.channels import ChannelGraph
from dsa_core.errors import BudgetError
from dsa_core.masked_weights import Site
from dsa_core.methods.dtp import DTP, TransportScheme
from dsa_core.methods.dtp_counts import keep_most
from dsa_core.scheme import Problem


class DTPWeight(DTP):
    """DTP on single weights of all convolutions and linear layers.

    All channels stay, and so does the time of a dense convolution: what falls is the number of
    parameters that are not zero, to exactly what the budget allows. Biases and normalisations are
    not pruned, but count. The allocation has a `weight_mask`.

    Attributes:
        score_lr: as in `DTP`; each weight gets a far smaller gradient than a channel (of 3 % of the
            parameters 0, 100, 1000 gave 14.6, 97.8, 96.9 % before fine-tuning).

    Source: Li et al., DTP, ICCV 2023 (arXiv:2307.08483), unstructured pruning.
    """

    label: ClassVar[str] = "dtp-weight"

    score_lr: float = Field(default=100.0, ge=0)

    def check_budget(self, budget: Budget) -> None:
        """Parameters only, and no divisor."""
        super().check_budget(budget)
        if budget.resource != "params":
            raise BudgetError(
                f"dtp-weight removes single weights, which saves no {budget.resource} in a dense "
                f"convolution: ask for params={budget.ratio:g}, or use the method dtp for channels"
            )
        if budget.divisor != 1:
            raise BudgetError(
                f"divisor={budget.divisor}: dtp-weight keeps an exact number of single weights; "
                "leave the divisor at 1 (in compress the target at torch), or use the method dtp "
                "for channels"
            )
        if budget.floors.keys() - {"*"}:
            raise BudgetError(
                f"floors: {sorted(budget.floors.keys() - {'*'})}: dtp-weight has one floor for all "
                "tensors, named '*'"
            )

    def scheme(self, problem: Problem) -> "WeightScheme":
        """Scores of single weights."""
        return WeightScheme(problem, self)


class WeightScheme(TransportScheme):
    """Single weights have the scores, a tensor is a group; every channel stays.

    Raises:
        BudgetError: the budget is below what cannot be pruned.
    """

    def __init__(self, problem: Problem, method: DTPWeight) -> None:
        graph = problem.graph
        self.shapes = {
            layer.weight: graph.parameters[layer.weight]
            for layer in graph.layers
            if layer.weight in graph.parameters
        }
        self.weight_cost = cost_of_weights(graph, self.shapes)
        problem.budget.check(self.weight_cost)
        super().__init__(problem, method, self.weight_cost)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Each weight has its own entry."""
        places = torch.arange(self.size).split(self.sizes.tolist())
        return tuple(
            Site(name, index, shape)
            for (name, shape), index in zip(self.shapes.items(), places, strict=True)
        )

    def first_importance(self) -> Tensor:
        """The size |w|."""
        state = dict(self.problem.model.named_parameters())
        return torch.cat([state[name].detach().float().abs().flatten() for name in self.shapes])

    @property
    def keep_ratios(self) -> Tensor:
        """Of the channels: all stay."""
        return torch.ones(len(self.problem.graph.prunable), dtype=torch.float64)

    @property
    def costs(self) -> dict[Resource, float]:
        """Of the weights that stay, and of what always does."""
        return {"params": float(self.form(self.unit_ratios))}

    def importance(self, model: nn.Module | None = None) -> Tensor:
        """Channels are not ranked here."""
        return torch.ones(self.problem.graph.n_channels)

    def counts(self, budget: Budget) -> Tensor:
        """All channels."""
        return self.problem.graph.sizes

    def weight_mask(self, budget: Budget) -> dict[str, Tensor]:
        """Which weights stay, by tensor, bool, on the CPU; exactly as many as the budget allows."""
        counts = round_to_channels(self.unit_ratios, self.weight_cost, budget)
        keep = keep_most(self.ranking(), counts, self.offsets).cpu().split(self.sizes.tolist())
        return {
            name: part.reshape(shape)
            for (name, shape), part in zip(self.shapes.items(), keep, strict=True)
        }

    def cut_mask(self, allocation: Allocation) -> Tensor:
        """That of the weights."""
        return torch.cat([mask.flatten() for mask in (allocation.weight_mask or {}).values()])

    def notes(self) -> dict[str, Any]:
        """And the share of every tensor that stays, and of the MACs that are not with a zero."""
        mask, graph = self.weight_mask(self.problem.budget), self.problem.graph
        share = nonzero_macs(graph, mask) / Cost.of(graph, "macs").dense
        density = {f"density {name}": float(m.double().mean()) for name, m in mask.items()}
        own = {"granularity": "weight", "nonzero_macs_ratio": share}
        return super().notes() | own | density


def cost_of_weights(graph: ChannelGraph, shapes: Mapping[str, tuple[int, ...]]) -> Cost:
    """The number of parameters, linear in the share of every tensor that stays."""
    sizes = torch.tensor([prod(shape) for shape in shapes.values()])
    fixed = float(Cost.of(graph, "params").dense - int(sizes.sum()))
    nothing = torch.zeros(len(sizes), len(sizes), dtype=torch.float64)
    return Cost("params", QuadraticForm(nothing, sizes.double(), fixed), sizes, tuple(shapes))


def nonzero_macs(graph: ChannelGraph, weight_mask: Mapping[str, Tensor]) -> int:
    """MACs of one example whose weight is not zero; a layer without a mask is counted whole.

    What hardware for sparse weights must still make. A dense convolution still does all of them.
    """
    total = graph.fixed_macs + sum(macs for macs, _ in graph.products)
    for layer in graph.layers:
        macs = layer.coefficient * layer.shape[0] * layer.shape[1]
        mask = weight_mask.get(layer.weight)
        total += macs if mask is None else macs * int(mask.sum()) // mask.numel()
    return total
