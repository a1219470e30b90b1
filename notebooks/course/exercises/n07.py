"""Exercises of notebook 07: whole channels, and the frontier read backwards."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from course.exercises.core import grade


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


def solution_cost_for(costs: list[float], scores: list[float], wanted: float) -> float | None:
    """The lowest cost at which the line through measured points reaches a score, if it does.

    Args:
        costs: where something was measured, rising.
        scores: what was measured.
        wanted: the score.
    """
    if scores[0] >= wanted:
        return costs[0]
    for (c0, s0), (c1, s1) in pairwise(zip(costs, scores, strict=True)):
        if s0 < wanted <= s1:
            return c0 + (c1 - c0) * (wanted - s0) / (s1 - s0)
    return None


def check_cost_for(learner: Callable[[list[float], list[float], float], float | None]) -> None:
    """Compare at measured scores, between them, above all of them, and on a line that dips."""
    rising, dipping = [0.8, 0.9, 0.92], [0.8, 0.75, 0.92]
    inputs = [([0.25, 0.5, 1.0], rising, s) for s in (0.9, 0.85, 0.91, 0.7, 0.95)]
    inputs += [([0.25, 0.5, 1.0], dipping, s) for s in (0.78, 0.85)]
    hint = (
        "go up the line from the left: the first point may be enough; else the first stretch that "
        "rises to the score; above the best measured score nobody knows: None"
    )
    grade("cost_for", learner, solution_cost_for, inputs, hint=hint)
