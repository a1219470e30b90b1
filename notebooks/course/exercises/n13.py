"""Checks and answers of notebook 13, a full run."""

import itertools
import math
from collections.abc import Callable, Sequence

from course.exercises.core import grade


def solution_budget_met(kept: Sequence[int], ratio: float) -> bool:
    """Whether a chain of layers that keeps these channels is within its budget.

    Layer i reads kept[i] and makes kept[i + 1] channels: MACs = sum_i kept[i] kept[i + 1], against
    the same sum over the 4, 16, 16, 32 channels of the dense chain. Equal is within.
    """
    dense = (4, 16, 16, 32)
    return chain_macs(kept) <= ratio * chain_macs(dense)


def chain_macs(widths: Sequence[int]) -> int:
    """MACs of a chain of 1x1 convolutions at one pixel."""
    return sum(a * b for a, b in itertools.pairwise(widths))


def check_budget_met(learner: Callable[[Sequence[int], float], bool]) -> None:
    """Grade `budget_met(kept, ratio)`."""
    inputs = [
        ((4, 16, 16, 32), 1.0),
        ((4, 8, 8, 32), 0.5),  # 352 of 832, 42 %
        ((4, 16, 8, 32), 0.5),  # 448 of 832: 54 %
        ((4, 10, 10, 32), 0.5),  # 460 of 832: 55 %, though 5/8 of the channels stay
        ((4, 16, 8, 28), 0.5),  # 416 of 832: exactly half
        ((4, 4, 16, 32), 0.5),  # 592: the narrow layer saves little
    ]
    hint = "count the MACs of what is kept, sum of kept[i] * kept[i + 1]; exactly on budget is met"
    grade("budget_met", learner, solution_budget_met, inputs, hint=hint)


def solution_mean_and_spread(scores: Sequence[float]) -> tuple[float, float]:
    """Mean, and sample standard deviation sqrt(sum (x - mean)^2 / (n - 1)); 0 for a single run."""
    n = len(scores)
    mean = sum(scores) / n
    squares = sum((x - mean) ** 2 for x in scores)
    return mean, math.sqrt(squares / (n - 1)) if n > 1 else 0.0


def check_mean_and_spread(learner: Callable[[Sequence[float]], tuple[float, float]]) -> None:
    """Grade `mean_and_spread(scores)`."""
    inputs = [([0.91, 0.93],), ([0.9, 0.92, 0.97],), ([0.5, 0.5, 0.5, 0.5],), ([0.88],)]
    hint = (
        "the mean is taken from the same n numbers, so only n - 1 deviations are free: divide the "
        "squares by n - 1; one run alone has no spread, return 0.0"
    )
    grade("mean_and_spread", learner, solution_mean_and_spread, inputs, hint=hint)
