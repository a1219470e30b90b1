"""The exercise of notebook 12: how many seeds."""

import math
from functools import partial

from scipy.special import ndtri

from course.exercises.core import grade


def solution_seeds(distance: float, spread: float) -> int:
    """The least n with  z spread sqrt(2 / n) < distance."""
    z = float(ndtri(0.975))
    return math.floor(2 * (z * spread / distance) ** 2) + 1


check_seeds = partial(
    grade,
    solution_seeds,
    [(0.7, 0.2), (0.2, 0.2), (0.1, 0.2), (0.5, 1.0), (3.0, 0.1)],
    hint="a mean of n runs has the standard error spread / sqrt(n), a difference of two such"
    " means sqrt(2) times that; 1.96 of these must be less than the distance; round up",
)
