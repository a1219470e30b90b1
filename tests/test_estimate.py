"""Intervals of means and differences, against their formulas; and what they show."""

import numpy as np
import pytest
from course.estimate import Estimate, difference, estimate, verdict
from problems_runs import ACCURACIES
from scipy.special import stdtrit


def test_the_interval_of_a_mean_is_students():
    found = estimate(ACCURACIES)
    assert (found.n, found.mean, found.sd) == (3, pytest.approx(0.88), pytest.approx(0.02))
    t = (2 * 0.975 - 1) / (2 * 0.975 * 0.025) ** 0.5  # two degrees of freedom: in closed form
    assert found.half == pytest.approx(t * 0.02 / 3**0.5)


def test_one_run_has_neither_spread_nor_interval():
    assert estimate([88.0]) == Estimate(88.0, 1)
    assert estimate([88.0]).text == "88.00 (n = 1)"
    assert difference([88.0], [87.0, 86.0]).as_difference == "+1.50 (n = 1)"


def test_the_interval_of_a_difference_is_welchs():
    rng = np.random.default_rng(0)
    for n, m, spread in ((3, 3, 1.0), (2, 5, 4.0), (3, 10, 0.1)):
        a, b = rng.normal(1, spread, n), rng.normal(0, 1, m)
        e, f = a.var(ddof=1) / n, b.var(ddof=1) / m
        degrees = (e + f) ** 2 / (e**2 / (n - 1) + f**2 / (m - 1))  # Welch 1947
        found = difference(a.tolist(), b.tolist())
        assert found.mean == pytest.approx(a.mean() - b.mean())
        assert found.half == pytest.approx(stdtrit(degrees, 0.975) * (e + f) ** 0.5)


def test_runs_without_spread_give_no_interval():
    alike = difference([1.0, 1.0], [0.5, 0.5])
    assert alike == Estimate(0.5, 2)
    assert verdict(alike) == "not shown (no spread)"
    assert estimate([1.0, 1.0]) == Estimate(1.0, 2, sd=0.0)
    assert estimate([1.0, 1.0]).text == "1.00 ± 0.00 (n = 2)"
    one_side = difference([1.0, 1.0], [0.4, 0.5, 0.6])  # all error is of the second side
    assert one_side.half == pytest.approx(estimate([0.4, 0.5, 0.6]).half)


def test_as_text():
    assert estimate([1.0, 2.0, 3.0]).text == "2.00 ± 1.00 (n = 3)"
    assert Estimate(-0.5, 3, 0.25).as_difference == "-0.50 [-0.75, -0.25]"


@pytest.mark.parametrize(
    ("found", "more_than", "wanted"),
    [
        (None, 0.0, "no records"),
        (Estimate(5.0, 1), 0.0, "not shown (n = 1)"),
        (Estimate(1.0, 3, 0.9), 0.0, "holds here"),
        (Estimate(1.0, 3, 1.1), 0.0, "not shown (the interval holds 0)"),
        (Estimate(-1.0, 3, 0.9), 0.0, "does not hold"),
        (Estimate(1.0, 3, 0.9), 0.5, "not shown (the interval holds 0.5)"),
        (Estimate(1.0, 3, 0.4), 1.5, "does not hold"),
    ],
)
def test_a_claim_is_judged_by_its_interval_alone(found, more_than: float, wanted: str):
    assert verdict(found, more_than=more_than) == wanted
