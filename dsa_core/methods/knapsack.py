"""Importance per cost: the channels that are worth least for what they cost go first."""

from bisect import bisect_right
from typing import ClassVar

import torch
from torch import Tensor

from dsa_core.budget.surface import REACH, CostForm
from dsa_core.dsa import KeepRatioScheme, Masked
from dsa_core.kernels.segments import segment_ids
from dsa_core.methods.dtp_counts import keep_most
from dsa_core.methods.uniform import FixedDirection
from dsa_core.scheme import Figures, Problem

SMALLEST = 1e-15  # price of a channel that costs nothing, as a share of the dense cost


class Knapsack(Masked):
    """Fill the budget with the channels of the highest importance per cost.

        max over m in {0, 1}^n  of  sum_i b_i^2 m_i   under  F(m) <= B,

    greedily, by b_i^2 / c_k, c_k = dF/dn_k being what a channel of group k costs in the dense
    network: the lowest go until the budget is met. Where F is linear, that is less than the worth
    of one channel from the best. Weights train under masks as in DSA's search, and the order
    follows them; with `steps=0` the dense network is cut at once.

    Deviations from the paper: c is the slope of a form, not looked up for every width; b is
    `importance`, without a gradient; no dynamic programming; a divisor rounds at the end.

    Source: after Shen et al., HALP (arXiv:2110.10811; NeurIPS 2022, arXiv:2210.06659).
    """

    learns: ClassVar[bool] = False
    several_resources: ClassVar[bool] = False  # each would have an order of its own
    label: ClassVar[str] = "knapsack"

    def scheme(self, problem: Problem) -> "KnapsackScheme":
        """Keep ratios that follow the budget and the weights."""
        optimizer = FixedDirection(problem.forms, problem.floors, torch.zeros_like(problem.floors))
        scheme = KnapsackScheme(problem, self, optimizer)
        scheme.update(0, problem.floors)
        return scheme


class KnapsackScheme(KeepRatioScheme):
    """Masks as DSA's; the counts of `fill`, by a common factor on the budget."""

    optimizer: FixedDirection

    def update(self, done: int, gradient: Tensor) -> Figures:
        """Fill the budget anew."""
        p, b = self.problem, self.importance()
        counts = fill(b, p.form, p.budget_at(done), p.floors, p.graph.offsets)
        self.optimizer.direction = (counts.double() / p.graph.sizes).log()
        return super().update(done, gradient)


def fill(b: Tensor, cost: CostForm, budget: float, floors: Tensor, offsets: Tensor) -> Tensor:
    """The most channels in the order of b^2 / c that cost at most the budget, int64, shape (K,).

    Args:
        b: importance > 0, shape (n,); of equals the first stay.
        cost: F of keep ratios (K,), F(1) = 1.
        budget: B, in [F(floors), 1].
        floors: keep ratios of whole channels, (K,); of every group those stay at any price.
        offsets: bounds of the groups, shape (K + 1,).
    """
    sizes, worth = offsets.diff(), b.cpu().double().square()
    least = (floors * sizes).round().long()
    groups = segment_ids(offsets)
    prices = (cost.gradient(torch.ones_like(floors)) / sizes).clamp_min(SMALLEST)
    density = (worth / prices[groups]).masked_fill(keep_most(worth, least, offsets), torch.inf)
    order = groups[density.argsort(descending=True, stable=True)]

    def kept(n: int) -> Tensor:
        return order[:n].bincount(minlength=len(sizes))

    def price(n: int) -> float:
        return float(cost(kept(n).double() / sizes))

    first = int(least.sum())  # the floors fit; of the others as many as do
    others = range(first + 1, len(order) + 1)
    return kept(first + bisect_right(others, budget * (1 + REACH), key=price))
