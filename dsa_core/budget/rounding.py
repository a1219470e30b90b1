"""Whole channels within a budget."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsa_core.budget.budget import Budget
from dsa_core.budget.form import Cost

Limits = list[tuple[Cost, int]]  # the most that may be spent of each cost, in its unit


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
    limits = [(cost, budget.limit(cost)) for cost in costs]
    sizes, least, stride = costs[0].sizes, budget.least_counts(costs[0]), budget.divisor
    target = alpha.double().clamp(1e-9, 1) * sizes
    counts = torch.maximum(budget.step_down((target + 1e-9).long(), sizes), least)
    below = (sizes - 1) // stride * stride  # the largest allowed count below the whole
    start = torch.where(counts >= sizes, below + stride, counts)
    down = Steps(start, -stride, counts, target)
    counts = take_back(down, ((start - least) // stride).clamp_min(0), limits)
    up = Steps(counts, stride, sizes, target)
    return spend_slack(up, -(-(sizes - counts) // stride), limits)


@dataclass(frozen=True)
class Steps:
    """Steps that the groups can make in one direction.

    Attributes:
        start: counts (K,) from which each step moves by `stride`.
        stride: channels of a step; below 0 for fewer.
        bound: counts (K,) that are not exceeded; so that a first or last step may be shorter.
        target: channels (K,) that the keep ratios ask for.
    """

    start: Tensor
    stride: int
    bound: Tensor
    target: Tensor

    def after(self, order: Tensor) -> Tensor:
        """Counts (K,) after some steps, given by their groups."""
        moves = order.bincount(minlength=len(self.start))
        return torch.minimum(self.start + self.stride * moves, self.bound)

    def order(self, moves: Tensor) -> Tensor:
        """The group of every one of the moves (K,), the one furthest from its target first."""
        k = torch.repeat_interleave(moves)
        earlier = torch.arange(len(k)) - (moves.cumsum(0) - moves)[k]  # steps of the same group
        here = torch.minimum(self.start[k] + self.stride * earlier, self.bound[k])
        gap = self.target[k] / here if self.stride > 0 else here / self.target[k]
        return k[gap.log().argsort(descending=True, stable=True)]


def fit(counts: Tensor, limits: Limits) -> bool:
    """Whether counts (K,) are within every limit, as whole numbers."""
    return all(cost.at(counts) <= most for cost, most in limits)


def over_limit(counts: Tensor, stride: int, limits: Limits) -> Tensor:
    """Groups (K,) whose next step is surely over a limit.

    The cost after it is estimated by the slope, which leaves out the curvature, and compared with a
    margin above any rounding error: a group that is not named may be over a limit too.
    """
    sizes = limits[0][0].sizes
    alpha, wider = counts / sizes.double(), (counts + stride).minimum(sizes) / sizes.double()
    found = torch.zeros(len(sizes), dtype=torch.bool)
    for cost, most in limits:
        after = cost.form(alpha) + (wider - alpha) * cost.form.gradient(alpha)
        found |= after > most + 1 + 1e-12 * cost.dense
    return found


def take_back(down: Steps, moves: Tensor, limits: Limits) -> Tensor:
    """Take steps back, the group furthest above its target first, until the counts fit."""
    order = down.order(moves)
    n = bisect_left(range(len(order)), True, key=lambda n: fit(down.after(order[:n]), limits))
    return down.after(order[:n])


def spend_slack(up: Steps, moves: Tensor, limits: Limits) -> Tensor:
    """Add steps, the group furthest below its target first, while one fits.

    A group whose step does not fit is closed: later steps of others only raise the cost.
    """
    left, taken = up.order(moves), torch.zeros(0, dtype=torch.int64)
    while len(left):
        n = how_many_fit(up, taken, left, limits)
        taken = torch.cat([taken, left[:n]])
        closed = over_limit(up.after(taken), up.stride, limits)
        closed[left[n : n + 1]] = True
        left = left[n:][~closed[left[n:]]]
    return up.after(taken)


def how_many_fit(up: Steps, taken: Tensor, left: Tensor, limits: Limits) -> int:
    """How many of the steps that are left fit, after those that were taken."""

    def refused(n: int) -> bool:
        return not fit(up.after(torch.cat([taken, left[:n]])), limits)

    return bisect_left(range(1, len(left) + 1), True, key=refused)
