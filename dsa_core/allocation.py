"""The answer of every allocator: which channels stay, at what cost, and how it was found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from dsa_core.budget import Budget, Cost, Resource, round_to_channels, shift_to_budgets
from dsa_core.channels import ChannelGraph
from dsa_core.errors import BudgetError
from dsa_core.masks import top_channels

MET = 1e-9  # relative: the relaxed cost lands on the budget to a few roundings, from either side
TOLERANCE = 1e-3  # a budget this close below the lowest cost passed is still answered


@dataclass(frozen=True)
class Update:
    """One update of the keep ratios, or the state at the start of a search.

    Attributes:
        step: weight steps done before it.
        budget: what was asked for at that moment, ratio of the dense cost; of several budgets the
            one that binds.
        cost: relaxed cost of `keep_ratios` in the same resource, ratio of the dense cost.
        keep_ratios: of every group, after the update.
        figures: what else the method knows, by name. Of DSA: sharpness (beta2); inexactness, the
            sum of p (1 - p) over all channels, which is the variance of the number of channels
            kept; price, the mean of the groups between their bounds, in units of loss per log cost,
            and price_spread, 0 at an optimum; on held-out batches, their loss under the
            estimator's mask.
    """

    step: int
    budget: float
    cost: float
    keep_ratios: tuple[float, ...]
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Allocation:
    """Which channels of a network stay.

    Attributes:
        method: the allocator's name.
        graph: of the network.
        budget: what was asked.
        keep_ratios: relaxed keep ratios, float64, shape (K,).
        importance: of every channel at the end, shape (n,); ranks the channels of a group.
        counts: kept channels of every group, int64, shape (K,).
        updates: the path of the search.
        epochs: one record for each epoch of masked training.
        seconds, processor_seconds: of the whole search, all its trials; see `Stopwatch`.
        device: where it ran.
        trials: searches it took until the budget was met, or until the method gave up on it.
        notes: what else the allocator wants recorded.
        weight_mask: where single weights were removed and no channel: weight -> which entries stay,
            bool; None for a method that removes channels.
    """

    method: str
    graph: ChannelGraph
    budget: Budget
    keep_ratios: Tensor
    importance: Tensor
    counts: Tensor
    updates: tuple[Update, ...] = ()
    epochs: tuple[dict[str, float], ...] = ()
    seconds: float = 0.0
    processor_seconds: float = 0.0
    device: str = "cpu"
    trials: int = 1
    notes: dict[str, Any] = field(default_factory=dict)
    weight_mask: Mapping[str, Tensor] | None = None

    @property
    def keep(self) -> Tensor:
        """Which channels stay: the most important of every group, bool, shape (n,)."""
        return top_channels(self.importance, self.counts, self.graph)

    def relaxed_cost(self, resource: Resource) -> float:
        """Cost of the relaxed keep ratios, as a ratio of the dense cost."""
        cost = self._cost(resource)
        return float(cost.relative(self.keep_ratios)) - self._zeros(cost) / cost.dense

    def whole_cost(self, resource: Resource) -> int:
        """Exact cost of the kept channels, in units of the resource; a zero is no parameter."""
        cost = self._cost(resource)
        return cost.at(self.counts) - self._zeros(cost)

    def whole_ratio(self, resource: Resource) -> float:
        """Exact cost of the kept channels, as a ratio of the dense cost."""
        return self.whole_cost(resource) / self._cost(resource).dense

    @property
    def cost_ratios(self) -> dict[Resource, float]:
        """`whole_ratio` of every resource that the budget limits."""
        return {resource: self.whole_ratio(resource) for resource in self.budget.ratios}

    @property
    def met(self) -> bool:
        """Whether the kept channels are within the budget, in every resource that it limits."""
        return all(
            self.whole_cost(resource) <= self.budget.limit(self._cost(resource))
            for resource in self.budget.ratios
        )

    def __repr__(self) -> str:
        """Method, cost, and how unevenly the channels were taken."""
        asked = ", ".join(
            f"{self.whole_ratio(resource):.2%} of {resource} (asked {ratio:.2%})"
            for resource, ratio in self.budget.ratios.items()
        )
        sizes, names = self.graph.sizes, [group.name for group in self.graph.prunable]
        kept = self.counts / sizes
        ends = (
            f"{names[k]} {int(self.counts[k])}/{int(sizes[k])}"
            for k in (int(kept.argmin()), int(kept.argmax()))
        )
        return (
            f"Allocation by {self.method}: {asked}\n"
            f"  keeps {int(self.counts.sum())} of {int(sizes.sum())} channels in {len(sizes)} "
            f"groups, from {' to '.join(ends)}"
        )

    def at(
        self,
        *,
        macs: float | None = None,
        params: float | None = None,
        latency: float | None = None,
    ) -> "Allocation":
        """The allocation for another budget that the search passed.

        Of several resources at once all hold. The keep ratios are those of the last update that is
        not below the budget (of several, not within all of them), shifted on it (a common factor,
        which leaves the prices as they are), then rounded to whole channels; channels are ranked by
        the importance at the end of the search.

        Raises:
            BudgetError: the search never passed that cost; names the range it did. Or it removed
                single weights, of which only the last choice is known; or it followed no falling
                budget (SSL, MorphNet, AMC), so that its earlier ratios are no answers.
        """
        if self.weight_mask is not None:
            raise BudgetError(
                f"{self.method} keeps no record of which single weights it would have kept at "
                "another budget: search again"
            )
        budget = replace(self.budget, macs=macs, params=params, latency=latency, latency_ms=None)
        if budget == self.budget:
            return self
        if not falls([u.budget for u in self.updates]):
            raise BudgetError(
                f"this search by {self.method} followed no falling budget, or has no history: it "
                "answers its own budget only; search again with the one wanted"
            )
        costs = budget.costs(self.graph)
        passed = [*(u.keep_ratios for u in self.updates), tuple(self.keep_ratios.tolist())]
        chosen = ratios_on_path(torch.tensor(passed, dtype=torch.float64), costs, budget)
        counts = round_to_channels(chosen, costs, budget)
        return replace(self, budget=budget, keep_ratios=chosen, counts=counts)

    def _zeros(self, cost: Cost) -> int:
        """Single weights that were set to zero, besides the channels that were cut."""
        masks = (self.weight_mask or {}).values() if cost.resource == "params" else ()
        return sum(int((~mask).sum()) for mask in masks)

    def _cost(self, resource: Resource) -> Cost:
        return self.budget.cost(self.graph, resource)


def falls(budgets: Sequence[float]) -> bool:
    """Whether a search asked for less and less, from the budget of each update."""
    return bool(budgets) and budgets[0] > budgets[-1]


def ratios_on_path(passed: Tensor, costs: Cost | Sequence[Cost], budget: Budget) -> Tensor:
    """Read from the path of one search the keep ratios for another budget; see `Allocation.at`.

    Args:
        passed: keep ratios of every update in order, the final ones last, shape (T, K), in (0, 1].
        costs: one for each resource that the budget names, or the only one.
        budget: what is asked now, with its floors and its divisor.

    Returns:
        Relaxed keep ratios, float64, shape (K,), on the budget.

    Raises:
        BudgetError: the search never passed that cost; names the lowest it did.
    """
    costs = budget.limited(costs)
    forms, wanted = [cost.relative for cost in costs], list(budget.ratios.values())
    path = torch.stack([torch.stack([form(alpha) for form in forms]) for alpha in passed])  # (T, R)
    above = (path / path.new_tensor(wanted)).max(1)  # the resource furthest over its budget, (T,)
    lowest = int(above.values.argmin())
    if float(above.values[lowest]) * (1 - TOLERANCE) > 1:
        r = int(above.indices[lowest])
        resource, reached = costs[r].resource, float(path[lowest, r])
        raise BudgetError(
            f"{resource}={budget.ratios[resource]:g} is below what this search passed: it went "
            f"from 1 down to {reached:.4f} of the dense {resource}. Ask for "
            "that or more, or search again with the lower budget"
        )
    over = (above.values >= 1 - MET).nonzero()[:, 0]
    nearest = passed[int(over[-1]) if len(over) else int(above.values.argmax())]
    floors = budget.least_counts(costs[0]) / costs[0].sizes
    shifted, _, _ = shift_to_budgets(nearest.log(), forms, wanted, floors)
    return shifted.exp()
