"""The exercise of notebook 07: the frontier read backwards."""

from functools import partial
from itertools import pairwise

from course.exercises.core import grade


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


BUDGETS, RISING, DIPPING = [0.25, 0.5, 1.0], [0.8, 0.9, 0.92], [0.8, 0.75, 0.92]
WANTED = (0.9, 0.85, 0.7, 0.95)  # at a measured score, between them, below and above all
TWICE = ([0.25, 0.5, 0.75, 1.0], [0.7, 0.9, 0.8, 0.95], 0.85)  # the line rises to it two times
check_cost_for = partial(
    grade,
    solution_cost_for,
    [
        *((BUDGETS, RISING, w) for w in WANTED),
        *((BUDGETS, DIPPING, w) for w in (0.78, 0.85)),
        TWICE,
    ],
    hint="go up the line from the left: the first point may be enough; else the first stretch that "
    "rises to the score; above the best measured score nobody knows: None",
)
