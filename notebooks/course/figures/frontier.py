"""Score against cost: what was measured at a few budgets, and what lies between."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from dsa_core.budget import Resource
from dsa_core.errors import ConfigError
from dsa_core.lab.record import Record

EDGE = 0.02  # whole channels land a little below a budget: so much below the last point is still it


@dataclass(frozen=True)
class Point:
    """Runs of one method at one budget.

    Attributes:
        cost: mean counted cost, ratio of the dense one.
        score: mean score on the test set after fine-tuning, in [0, 1].
        spread: sample standard deviation over the runs; 0 for one run.
        n: runs, one for each seed.
    """

    cost: float
    score: float
    spread: float
    n: int


Frontier = tuple[Point, ...]


def frontiers(records: Sequence[Record], resource: Resource = "macs") -> dict[str, Frontier]:
    """Score against cost for each method, the dense network last.

    Args:
        records: runs of one network on one dataset with one preset, with any seeds. Only those
            whose budget is in this resource alone, without floors or divisor, are points.
        resource: of the budgets and of the costs.

    Returns:
        Method -> points, in rising order of cost; DSA first, then uniform.

    Raises:
        ConfigError: the runs are of several networks, datasets or presets.
    """
    kinds = {(r.model, r.dataset, r.preset) for r in records}
    if len(kinds) > 1:
        raise ConfigError(f"one frontier is of one network, data and preset; got {sorted(kinds)}")
    alone = [r for r in records if r.resource == resource and not r.also_asked]
    plain = [r for r in alone if r.divisor == 1 and not r.floors]
    groups: dict[tuple[str, float], list[Record]] = defaultdict(list)
    for r in plain:
        groups[r.method, r.asked_ratio].append(r)
    dense = dense_point(plain)
    found: dict[str, list[Point]] = defaultdict(lambda: list(dense))
    for (method, _), runs in groups.items():
        costs = [r.costs[resource].ratio for r in runs]
        found[method].append(point(costs, [r.scores.fine_tuned for r in runs]))
    return {m: tuple(sorted(found[m], key=lambda p: p.cost)) for m in sorted(found, key=place)}


def place(method: str) -> tuple[int, str]:
    """Sort methods: DSA, uniform, the others by name."""
    first = ("dsa", "uniform")
    return (first.index(method) if method in first else len(first)), method


def dense_point(records: Sequence[Record]) -> list[Point]:
    """The dense networks, each seed once, at cost 1; nothing if none was trained."""
    by_seed = {r.seed: r.scores.dense for r in records if r.scores.dense is not None}
    return [point([1.0], list(by_seed.values()))] if by_seed else []


def point(costs: Sequence[float], scores: Sequence[float]) -> Point:
    """Mean and spread of some runs."""
    spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
    return Point(statistics.fmean(costs), statistics.fmean(scores), spread, len(scores))


def between(frontier: Frontier, cost: float) -> Point | None:
    """The point on the straight line between the two measured neighbours of a cost.

    With t = (cost - c0) / (c1 - c0), score and spread are (1 - t) of the left and t of the right
    neighbour; n is the smaller of the two. A guess: nothing was trained there.

    Args:
        frontier: points in rising order of cost.
        cost: ratio of the dense cost; up to 2 % below the first point it counts as that point.

    Returns:
        None where nothing was measured on one of the sides.
    """
    if not frontier:
        return None
    first, last = frontier[0], frontier[-1]
    if first.cost * (1 - EDGE) <= cost <= first.cost:
        return replace(first, cost=cost)
    if cost == last.cost:
        return last
    for a, b in pairwise(frontier):
        if a.cost <= cost < b.cost:
            t = (cost - a.cost) / (b.cost - a.cost)
            score = (1 - t) * a.score + t * b.score
            return Point(cost, score, (1 - t) * a.spread + t * b.spread, min(a.n, b.n))
    return None
