"""Importance per cost: channels worth the least for what they cost are removed first."""

from bisect import bisect_right
from typing import ClassVar

import torch
from torch import Tensor

from dsa_core.budget import QuadraticForm
from dsa_core.budget.surface import REACH
from dsa_core.dsa import KeepRatioScheme, Masked
from dsa_core.kernels.segments import segment_ids
from dsa_core.methods.dtp_counts import keep_most
from dsa_core.methods.uniform import FixedDirection
from dsa_core.scheme import Figures, Problem

SMALLEST = 1e-15  # price of a channel that costs nothing, as a share of the dense cost


class Knapsack(Masked):
    """Fill the budget with the channels of the highest importance per cost.

        max over m in {0, 1}^n  of  sum_i b_i^2 m_i   under  F(m) <= B,

    greedily by b_i^2 / c_k, where c_k = dF/dn_k is the cost of a channel of group k in the dense
    network: the lowest are removed until the budget is met. If F is linear, the result is within
    the value of one channel of the optimum. Weights train under masks as in DSA's search, and the
    order follows them; with `steps=0` the dense network is cut at once.

    Deviations from the paper: c is the slope of a form, not a table over widths; b is `importance`,
    without a gradient; no dynamic programming; the divisor is applied by rounding at the end.

    Source: after Shen et al., HALP (arXiv:2110.10811; NeurIPS 2022, arXiv:2210.06659).
    """

    learns: ClassVar[bool] = False
    several_resources: ClassVar[bool] = False  # each would give a different order
    label: ClassVar[str] = "knapsack"

    def scheme(self, problem: Problem) -> "KnapsackScheme":
        """Keep ratios that follow the budget and the weights."""
        optimizer = FixedDirection(problem.forms, problem.floors, torch.zeros_like(problem.floors))
        scheme = KnapsackScheme(problem, self, optimizer)
        scheme.update(0, problem.floors)
        return scheme


class KnapsackScheme(KeepRatioScheme):
    """DSA's masks; the counts of `fill`, scaled onto the budget by a common factor."""

    optimizer: FixedDirection

    def update(self, done: int, gradient: Tensor) -> Figures:
        """Fill the current budget."""
        p, b = self.problem, self.importance()
        counts = fill(b, p.form, p.budget_at(done), p.floors, p.graph.offsets)
        self.optimizer.direction = (counts.double() / p.graph.sizes).log()
        return super().update(done, gradient)


def fill(b: Tensor, cost: QuadraticForm, budget: float, floors: Tensor, offsets: Tensor) -> Tensor:
    """Counts when channels are taken in order of b^2 / c up to the budget, int64, shape (K,).

    Args:
        b: importance > 0, shape (n,); ties go to the first.
        cost: F of keep ratios (K,), F(1) = 1.
        budget: B, in [F(floors), 1].
        floors: keep ratios of whole channels, (K,); these stay at any price.
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

    first = int(least.sum())  # the floors fit; then as many as fit
    others = range(first + 1, len(order) + 1)
    return kept(first + bisect_right(others, budget * (1 + REACH), key=price))
