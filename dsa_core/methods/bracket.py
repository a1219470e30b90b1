"""Find a strength at which a cost falls just below a limit, when each trial of one is expensive.

The cost c(lambda) of a trained network falls with the strength lambda of its penalty, but neither
smoothly (channels are whole) nor strictly (trainings are noisy). So this is bisection with memory:
step along a logarithmic grid until there are trials on both sides of the limit, then interpolate c
linearly in log lambda between two neighbours on opposite sides, staying away from the ends. The
trainings themselves are in `trials`.
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


def hits(trial: Trial, limit: float, tolerance: float) -> bool:
    """Whether a trial's cost is within the limit and at most a tolerance below it."""
    return limit * (1 - tolerance) <= trial.cost <= limit + 1e-9


def best_trial(trials: Sequence[Trial], limit: float) -> int:
    """Index of the trial to use: the costliest within the limit, else the cheapest of all."""
    within = [i for i, trial in enumerate(trials) if trial.cost <= limit + 1e-9]
    if within:
        return max(within, key=lambda i: trials[i].cost)
    return min(range(len(trials)), key=lambda i: trials[i].cost)


def next_strength(
    trials: Sequence[Trial], limit: float, *, first: float, factor: float, tolerance: float
) -> float | None:
    """Choose the strength of the next trial; None if the last one hit.

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
    above = [trial for trial in trials if trial.cost > limit + 1e-9]
    within = [trial for trial in trials if trial.cost <= limit + 1e-9]
    if not within:
        return max(trial.strength for trial in above) * factor
    if not above:
        return min(trial.strength for trial in within) / factor
    weak, strong = crossing(trials, limit)
    return between(weak, strong, limit * (1 - tolerance / 2))


def crossing(trials: Sequence[Trial], limit: float) -> tuple[Trial, Trial]:
    """Two trials, neighbours in strength, one above the limit and one within it.

    Because of noise there can be several such pairs, and the stronger trial can be the costlier;
    the pair with the closest costs is used. No strength between neighbours was tried before.
    """
    ordered = sorted(trials, key=lambda trial: trial.strength)
    pairs = [
        sorted(pair, key=lambda trial: -trial.cost)
        for pair in pairwise(ordered)
        if (pair[0].cost <= limit + 1e-9) != (pair[1].cost <= limit + 1e-9)
    ]
    weak, strong = min(pairs, key=lambda pair: pair[0].cost - pair[1].cost)
    return weak, strong


def between(weak: Trial, strong: Trial, wanted: float) -> float:
    """Interpolate the cost linearly in log lambda, at least a tenth away from either end.

    With s = log lambda and c(weak) > wanted >= c(strong) the share of the way from weak to strong
    is  (c(weak) - wanted) / (c(weak) - c(strong)), which lies in (0, 1].
    """
    share = (weak.cost - wanted) / (weak.cost - strong.cost)
    share = min(1 - OFF_END, max(OFF_END, share))
    start, end = math.log(weak.strength), math.log(strong.strength)
    return math.exp(start + share * (end - start))
