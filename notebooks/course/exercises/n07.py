"""Exercises of notebook 07: reading a search for another budget, whole channels, the frontier."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from course.exercises.core import grade


def solution_last_above(costs: Tensor, budget: float) -> int:
    """The place of the last update whose cost is not below the budget.

    Args:
        costs: of every update in order, ratios of the dense cost, shape (T,); the first is 1.
        budget: in (0, 1].
    """
    return int((costs >= budget).nonzero()[-1])


def check_last_above(learner: Callable[[Tensor, float], int]) -> None:
    """Compare on ways that fall, and on one that goes up again on its way."""
    smooth = torch.tensor([1.0, 0.9, 0.8, 0.7, 0.6, 0.5], dtype=torch.float64)
    bumpy = torch.tensor([1.0, 0.8, 0.6, 0.7, 0.65, 0.5, 0.5], dtype=torch.float64)
    inputs = [(smooth, 0.75), (smooth, 0.7), (smooth, 1.0), (bumpy, 0.62), (bumpy, 0.5)]
    hint = "a search may rise again for a moment: the last update at or above the budget counts"
    grade("last_above", learner, solution_last_above, inputs, hint=hint)


def solution_in_multiples(alpha: Tensor, sizes: Tensor, divisor: int) -> Tensor:
    """Round keep ratios down to multiples of a divisor.

    A whole group may stay whole; of every group at least `divisor` channels stay, or all of them if
    it has fewer.

    Args:
        alpha: keep ratios in (0, 1], shape (K,).
        sizes: channels of every group, int64, shape (K,).
        divisor: at least 1.

    Returns:
        Kept channels, int64, shape (K,).
    """
    wanted = (alpha * sizes + 1e-9).long()
    counts = wanted // divisor * divisor
    counts = torch.where(wanted >= sizes, sizes, counts)
    return torch.minimum(counts.clamp_min(divisor), sizes)


def check_in_multiples(learner: Callable[[Tensor, Tensor, int], Tensor]) -> None:
    """Compare on groups that divide, that do not, and that are smaller than the divisor."""
    sizes = torch.tensor([16, 32, 12, 4, 64])
    inputs = [
        (torch.tensor(a, dtype=torch.float64), sizes, d)
        for a, d in [
            ([0.5, 0.5, 0.5, 0.5, 0.5], 1),
            ([0.9, 0.3, 0.7, 0.5, 0.11], 8),
            ([1.0, 1.0, 1.0, 1.0, 1.0], 8),
            ([0.01, 0.02, 0.03, 0.3, 0.99], 4),
        ]
    ]
    hint = (
        "down, never up, or the budget breaks; a group of 12 that is kept whole keeps 12, and no "
        "group loses its last channels"
    )
    grade("in_multiples", learner, solution_in_multiples, inputs, hint=hint)


def solution_predict(costs: list[float], scores: list[float], cost: float) -> float | None:
    """The score on the straight line between the measured neighbours; None outside of them.

    Args:
        costs: where something was measured, rising.
        scores: what was measured.
        cost: where it is wanted.
    """
    points = zip(costs, scores, strict=True)
    for (c0, s0), (c1, s1) in pairwise(points):
        if c0 <= cost <= c1:
            return s0 + (s1 - s0) * (cost - c0) / (c1 - c0)
    return None


def check_predict(learner: Callable[[list[float], list[float], float], float | None]) -> None:
    """Compare at measured places, between them, and outside."""
    costs, scores = [0.25, 0.5, 1.0], [0.8, 0.9, 0.92]
    inputs = [(costs, scores, c) for c in (0.5, 0.3, 0.75, 1.0, 0.25, 0.1)]
    hint = (
        "between its neighbours the score moves as the cost does; below the smallest measured cost "
        "nobody knows: return None, do not extend the line"
    )
    grade("predict", learner, solution_predict, inputs, hint=hint)
