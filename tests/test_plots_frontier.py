"""The frontier: points from records, and what lies between them."""

import pytest
from course.figures.frontier import Point, between, frontiers
from problems_runs import some_record

from dsa_core.errors import ConfigError
from dsa_core.lab.record import CostRecord, Record, Scores


def run(method: str, asked: float, score: float, seed: int = 0, **changes: object) -> Record:
    """A run that lands one percent of the dense cost below what was asked."""
    dense = 100_000_000
    counted = round((asked - 0.01) * dense)
    macs = CostRecord(
        dense=dense, asked_ratio=asked, relaxed_ratio=asked, whole=counted, counted=counted
    )
    costs = {"macs": macs, "params": some_record().costs["params"]}
    scores = Scores(dense=0.9 + 0.01 * seed, pruned=0.5, fine_tuned=score, masked_loss=1.0)
    settings = {"method": method, "asked_ratio": asked, "seed": seed}
    return some_record(**settings | {"costs": costs, "scores": scores} | changes)


RUNS = [
    run("dsa", 0.5, 0.88, seed=0),
    run("dsa", 0.5, 0.90, seed=1),
    run("dsa", 0.25, 0.80, seed=0),
    run("uniform", 0.5, 0.86, seed=0),
]
LINE = (Point(0.25, 0.8, 0.02, 3), Point(0.5, 0.9, 0.01, 2), Point(1.0, 0.92, 0.0, 3))


def test_points_are_mean_and_spread_over_seeds_in_order_of_cost() -> None:
    curves = frontiers(RUNS)
    assert list(curves) == ["dsa", "uniform"]
    low, half, dense = curves["dsa"]
    assert (low.cost, low.score, low.spread, low.n) == pytest.approx((0.24, 0.80, 0.0, 1))
    assert (half.cost, half.score, half.n) == pytest.approx((0.49, 0.89, 2))
    assert half.spread == pytest.approx(0.02 / 2**0.5)  # sample deviation of two values
    assert (dense.cost, dense.score, dense.n) == pytest.approx((1.0, 0.905, 2))
    assert len(curves["uniform"]) == 2


def test_runs_with_floors_a_divisor_or_another_resource_are_no_points() -> None:
    others = [
        run("dsa", 0.4, 0.1, divisor=8),
        run("dsa", 0.4, 0.1, floors={"*": 0.5}),
        run("dsa", 0.4, 0.1, resource="params"),
        run("dsa", 0.4, 0.1, also_asked={"params": 0.5}),
    ]
    assert frontiers([*RUNS, *others]) == frontiers(RUNS)
    with pytest.raises(ConfigError, match="one network"):
        frontiers([*RUNS, run("dsa", 0.5, 0.9, model="resnet56")])
    untrained = Scores(dense=None, pruned=0.5, fine_tuned=0.7, masked_loss=1.0)
    (points,) = frontiers([run("dsa", 0.5, 0.7, scores=untrained)]).values()
    assert [p.cost for p in points] == [0.49]  # and no dense point


def test_between_is_a_straight_line() -> None:
    here = between(LINE, 0.3)
    assert here is not None
    assert (here.cost, here.score, here.spread, here.n) == pytest.approx((0.3, 0.82, 0.018, 2))
    for point in LINE:
        assert between(LINE, point.cost) == point


def test_nothing_is_claimed_outside() -> None:
    assert between(LINE, 0.1) is None
    assert between((), 0.5) is None
    assert between(LINE[:2], 0.6) is None
    near = between(LINE, 0.25 * 0.985)  # whole channels land a little below
    assert near is not None
    assert near.score == 0.8
