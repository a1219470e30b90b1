"""Find a strength at which a cost falls just below a limit, when each trial of one is expensive.

The cost c(lambda) of a trained network falls with the strength lambda of its penalty, but not
smoothly (whole channels) and not strictly (every training has its noise). So this is bisection with
a memory: step along a logarithmic grid until one trial lies on each side of the limit, then take a
point between two neighbours on either side, by linear interpolation of c in log lambda, kept off
the ends. Nothing here trains; `trials` does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

OFF_END = 0.1  # of the bracket: interpolation alone creeps where the curve has a step


@dataclass(frozen=True)
class Trial:
    """One training: the cost that a strength came out at.

    Attributes:
        strength: lambda > 0.
        cost: a ratio of the dense cost.
    """

    strength: float
    cost: float


def hits(trial: Trial, limit: float, tolerance: float) -> bool:
    """Whether a trial's cost is within the limit and not more than a tolerance below it."""
    return limit * (1 - tolerance) <= trial.cost <= limit + 1e-9


def best_trial(trials: Sequence[Trial], limit: float) -> int:
    """The place of the trial to take: the costliest within the limit, else the cheapest of all."""
    within = [i for i, trial in enumerate(trials) if trial.cost <= limit + 1e-9]
    if within:
        return max(within, key=lambda i: trials[i].cost)
    return min(range(len(trials)), key=lambda i: trials[i].cost)


def next_strength(
    trials: Sequence[Trial], limit: float, *, first: float, factor: float, tolerance: float
) -> float | None:
    """Choose the strength of the next trial.

    Args:
        trials: all trials so far, in order.
        limit: the cost to come out at, or just below.
        first: strength of the first trial.
        factor: > 1, of the logarithmic grid.
        tolerance: see `hits`.

    Returns:
        The strength; None if the last trial hit.
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
    """Two trials, neighbours in strength, on the two sides of the limit: above it, within it.

    Noise can make several such pairs, and a stronger trial the costlier; taken is the pair whose
    costs lie closest together. As they are neighbours, no point between them was tried before.
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
    """Interpolate the cost linearly in log lambda, not nearer to an end than a tenth.

    With s = log lambda and c(weak) > wanted >= c(strong) the share of the way from weak to strong
    is  (c(weak) - wanted) / (c(weak) - c(strong)), which lies in (0, 1].
    """
    share = (weak.cost - wanted) / (weak.cost - strong.cost)
    share = min(1 - OFF_END, max(OFF_END, share))
    start, end = math.log(weak.strength), math.log(strong.strength)
    return math.exp(start + share * (end - start))
