"""Find a strength at which a cost falls just below a limit, when each trial of one is expensive.

The cost c(lambda) of a trained network falls with the strength lambda of its penalty, but neither
smoothly (channels are whole) nor strictly (trainings are noisy). So this is bisection with memory:
step along a logarithmic grid until there are trials on both sides of the limit, then interpolate.
The trainings themselves are in `trials`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

OFF_END = 0.1  # of the bracket: interpolation alone creeps where the curve has a step


@dataclass(frozen=True)
class Trial:
    """One training: a strength lambda > 0, and the resulting cost, a ratio of the dense cost."""

    strength: float
    cost: float


def is_within(trial: Trial, limit: float) -> bool:
    """Whether a trial's cost is within the limit, up to rounding."""
    return trial.cost <= limit + 1e-9


def hits(trial: Trial, limit: float, tolerance: float) -> bool:
    """Whether a trial's cost is within the limit and at most a tolerance below it."""
    return limit * (1 - tolerance) <= trial.cost and is_within(trial, limit)


def best_trial(trials: Sequence[Trial], limit: float) -> int:
    """Index of the trial to use: the costliest within the limit, else the cheapest of all."""
    within = [i for i, trial in enumerate(trials) if is_within(trial, limit)]
    if within:
        return max(within, key=lambda i: trials[i].cost)
    return min(range(len(trials)), key=lambda i: trials[i].cost)


def next_strength(
    trials: Sequence[Trial], limit: float, *, first: float, factor: float, tolerance: float
) -> float | None:
    """Choose the strength of the next trial; None if the last one hit.

    Once there are trials on both sides of the limit, the cost is interpolated linearly in the log
    of the strength between two neighbours, at least a tenth away from either. Because of noise
    there can be several such pairs, and the stronger trial can be the costlier; the pair with the
    closest costs is used. No strength between neighbours was tried before.

    Args:
        limit: the cost to reach, or to end just below.
        first: strength of the first trial.
        factor: > 1, of the logarithmic grid.
        tolerance: see `hits`.
    """
    if not trials:
        return first
    if hits(trials[-1], limit, tolerance):
        return None
    ordered = sorted(trials, key=lambda trial: trial.strength)
    pairs = [
        sorted(pair, key=lambda trial: -trial.cost)
        for pair in pairwise(ordered)
        if is_within(pair[0], limit) != is_within(pair[1], limit)
    ]
    if not pairs and is_within(trials[0], limit):
        return ordered[0].strength / factor
    if not pairs:
        return ordered[-1].strength * factor
    above, within = min(pairs, key=lambda pair: pair[0].cost - pair[1].cost)
    wanted = limit * (1 - tolerance / 2)
    share = (above.cost - wanted) / (above.cost - within.cost)  # of the way, in (0, 1]
    share = min(1 - OFF_END, max(OFF_END, share))
    start, end = math.log(above.strength), math.log(within.strength)
    return math.exp(start + share * (end - start))
