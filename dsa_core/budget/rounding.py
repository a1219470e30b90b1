"""Whole channels within a budget."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsa_core.budget.budget import Budget
from dsa_core.budget.form import Cost


def round_to_channels(alpha: Tensor, costs: Cost | Sequence[Cost], budget: Budget) -> Tensor:
    """Turn keep ratios into whole channels, within the budget and with no channel's worth unused.

    Every group is rounded down to an allowed count (not below its floor). If the floors push the
    cost over the budget, steps are taken back where the count lies highest above its ratio; then
    the slack is spent, step by step, on the group whose count lies lowest against its ratio, until
    no step fits any more. A step fits if every resource that the budget names is within its limit,
    as an integer.

    The order of the steps depends on no cost, and the cost only rises with them: how many fit is
    found by bisection.

    Args:
        alpha: keep ratios in [0, 1], shape (K,).
        costs: one for each resource that the budget names, or the only one.

    Raises:
        BudgetError: the budget is below the cost of the floors, or a cost is missing.
    """
    costs = budget.limited(costs)
    budget.check(costs)
    limits = Limits(costs, tuple(budget.limit(cost) for cost in costs))
    sizes, least = costs[0].sizes, budget.least_counts(costs[0])
    target = alpha.double().clamp(1e-9, 1) * sizes
    counts = torch.maximum(budget.step_down((target + 1e-9).long(), sizes), least)
    counts = take_back(counts, least, target, budget.divisor, limits)
    return spend_slack(counts, target, budget.divisor, limits)


@dataclass(frozen=True)
class Limits:
    """The most that may be spent of each cost, in its unit."""

    costs: tuple[Cost, ...]
    most: tuple[int, ...]

    @property
    def sizes(self) -> Tensor:
        """Channels of every group, (K,)."""
        return self.costs[0].sizes

    def fit(self, counts: Tensor) -> bool:
        """Whether counts (K,) are within every limit, as whole numbers."""
        return all(c.at(counts) <= most for c, most in zip(self.costs, self.most, strict=True))

    def over_limit(self, counts: Tensor, stride: int) -> Tensor:
        """Groups (K,) whose next step is surely over a limit.

        The cost after it is estimated by the slope, which leaves out the curvature, and compared
        with a margin above any rounding error: a group that is not named may be over a limit too.
        """
        sizes = self.sizes.double()
        alpha, step = counts / sizes, (counts + stride).minimum(self.sizes) / sizes - counts / sizes
        found = torch.zeros(len(sizes), dtype=torch.bool)
        for cost, most in zip(self.costs, self.most, strict=True):
            after = cost.form(alpha) + step * cost.form.gradient(alpha)
            found |= after > most + 1 + 1e-12 * cost.dense
        return found


@dataclass(frozen=True)
class Steps:
    """Steps that the groups can make in one direction.

    Attributes:
        start: counts (K,) from which each step moves by `stride`.
        stride: channels of a step; below 0 for fewer.
        bound: counts (K,) that are not exceeded; so that a first or last step may be shorter.
    """

    start: Tensor
    stride: int
    bound: Tensor

    def after(self, moves: Tensor) -> Tensor:
        """Counts (K,) after `moves` (K,) steps of each group."""
        return torch.minimum(self.start + self.stride * moves, self.bound)

    def order(self, moves: Tensor, target: Tensor) -> Tensor:
        """The group of every step, (moves.sum(),), the one furthest from its target first."""
        k = torch.repeat_interleave(moves)
        earlier = torch.arange(len(k)) - (moves.cumsum(0) - moves)[k]  # steps of the same group
        here = torch.minimum(self.start[k] + self.stride * earlier, self.bound[k])
        gap = target[k] / here if self.stride > 0 else here / target[k]
        return k[gap.log().argsort(descending=True, stable=True)]


def take_back(
    counts: Tensor, least: Tensor, target: Tensor, divisor: int, limits: Limits
) -> Tensor:
    """Take steps back, the group furthest above its target first, until the counts fit."""
    below = (limits.sizes - 1) // divisor * divisor  # the largest allowed count below the whole
    start = torch.where(counts >= limits.sizes, below + divisor, counts)
    down = Steps(start, -divisor, counts)
    order = down.order(((start - least) // divisor).clamp_min(0), target)

    def after(n: int) -> Tensor:
        return down.after(order[:n].bincount(minlength=len(counts)))

    return after(bisect_left(range(len(order)), True, key=lambda n: limits.fit(after(n))))


def spend_slack(counts: Tensor, target: Tensor, divisor: int, limits: Limits) -> Tensor:
    """Add steps, the group furthest below its target first, while one fits.

    A group whose step does not fit is closed: later steps of others only raise the cost.
    """
    up, moves = Steps(counts, divisor, limits.sizes), torch.zeros_like(counts)
    order = up.order(-(-(limits.sizes - counts) // divisor), target)
    while len(order):
        n = how_many_fit(up, moves, order, limits)
        moves = moves + order[:n].bincount(minlength=len(counts))
        closed = limits.over_limit(up.after(moves), divisor)
        closed[order[n : n + 1]] = True
        order = order[n:][~closed[order[n:]]]
    return up.after(moves)


def how_many_fit(up: Steps, moves: Tensor, order: Tensor, limits: Limits) -> int:
    """How many steps of an order fit, after the moves (K,) that were made before."""

    def refused(n: int) -> bool:
        after = moves + order[:n].bincount(minlength=len(moves))
        return not limits.fit(up.after(after))

    return bisect_left(range(1, len(order) + 1), True, key=refused)
