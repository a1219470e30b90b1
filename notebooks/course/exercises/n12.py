"""Exercises of notebook 12: a difference of two means, how many seeds, a place by chance."""

import math
from collections.abc import Callable, Sequence

from scipy.special import ndtri

from course.estimate import difference
from course.exercises.core import grade


def solution_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Welch's 95 % interval of mean minus mean."""
    found = difference(first, second)
    half = found.half or 0.0
    return found.mean - half, found.mean + half


def check_interval(learner: Callable[..., tuple[float, float]]) -> None:
    """Grade `interval(first, second)`."""
    grade(
        "interval",
        learner,
        solution_interval,
        [
            ([90.0, 90.2, 90.4], [89.0, 89.1, 89.5]),
            ([90.0, 90.2, 90.4], [87.0, 89.0, 88.6, 88.2]),
            ([1.0, 2.0], [5.0, 5.1, 5.2, 4.9, 5.0]),
        ],
        hint="add the squared standard errors sd² / n of both sides (sample variances: divide by"
        " n - 1), and take t at the degrees of freedom of the formula, which is no whole number",
    )


def solution_seeds(distance: float, spread: float) -> int:
    """The least n with  z spread sqrt(2 / n) < distance."""
    z = float(ndtri(0.975))
    return math.floor(2 * (z * spread / distance) ** 2) + 1


def check_seeds(learner: Callable[..., int]) -> None:
    """Grade `seeds(distance, spread)`."""
    grade(
        "seeds",
        learner,
        solution_seeds,
        [(0.7, 0.2), (0.2, 0.2), (0.1, 0.2), (0.5, 1.0), (3.0, 0.1)],
        hint="a mean of n runs has the standard error spread / sqrt(n), a difference of two such"
        " means sqrt(2) times that; 1.96 of these must be less than the distance; round up",
    )


def solution_by_chance(value: float, random: Sequence[float]) -> float:
    """(1 + how many are as high or higher) / (1 + n)."""
    return (1 + sum(each >= value for each in random)) / (1 + len(random))


def check_by_chance(learner: Callable[..., float]) -> None:
    """Grade `by_chance(value, random)`."""
    some = [89.1, 88.4, 89.9, 88.8, 89.5, 89.2, 88.9, 89.3, 89.0]
    inputs = [(90.2, some), (89.2, some), (80.0, some), (90.2, some[:4]), (1.0, [1.0])]
    grade(
        "by_chance",
        learner,
        solution_by_chance,
        inputs,
        hint="the value itself is one more draw: of all n + 1, how many are as high as it or"
        " higher, itself included?",
    )
