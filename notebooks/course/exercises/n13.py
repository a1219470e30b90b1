"""Checks and answers of notebook 13, a full run."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from statistics import fmean, stdev

from course.exercises.core import grade

DENSE = (4, 16, 16, 32)  # 832 MACs


def chain_macs(widths: Sequence[float]) -> float:
    """MACs of a chain of 1x1 convolutions at one pixel: layer i maps widths[i] to widths[i + 1]."""
    return sum(a * b for a, b in pairwise(widths))


def solution_budget_met(kept: Sequence[int], ratio: float) -> bool:
    """Whether a chain that keeps these of the `DENSE` channels is within or just on budget."""
    return chain_macs(kept) <= ratio * chain_macs(DENSE)


check_budget_met = partial(
    grade,
    solution_budget_met,
    [
        (DENSE, 1.0),
        ((4, 8, 8, 32), 0.5),  # 352 of 832, 42 %
        ((4, 16, 8, 32), 0.5),  # 448 of 832: 54 %
        ((4, 10, 10, 32), 0.5),  # 460 of 832: 55 %, though 5/8 of the channels stay
        ((4, 16, 8, 28), 0.5),  # 416 of 832: exactly half
        ((4, 4, 16, 32), 0.5),  # 592: the narrow layer saves little
    ],
    hint="count the MACs of what is kept, sum of kept[i] * kept[i + 1]; exactly on budget is met",
)


def solution_mean_and_spread(scores: Sequence[float]) -> tuple[float, float]:
    """Mean, and sample standard deviation sqrt(sum (x - mean)^2 / (n - 1)); 0 for a single run."""
    return fmean(scores), stdev(scores) if len(scores) > 1 else 0.0


check_mean_and_spread = partial(
    grade,
    solution_mean_and_spread,
    [([0.91, 0.93],), ([0.9, 0.92, 0.97],), ([0.5, 0.5, 0.5, 0.5],), ([0.88],)],
    hint="the mean is taken from the same n numbers, so only n - 1 deviations are free: divide the "
    "squares by n - 1; one run alone has no spread, return 0.0",
)
