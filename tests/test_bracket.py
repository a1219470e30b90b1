"""The search for a strength: it ends in the window, repeats nothing, and survives noise."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsa_core.methods.bracket import Trial, best_trial, hits, next_strength

LIMIT, TOLERANCE = 0.5, 0.02
HOW = {"first": 1.0, "factor": 2.0, "tolerance": TOLERANCE}


def follow(cost, most: int = 30) -> list[Trial]:
    """All trials at a curve, until one hits or there have been enough."""
    trials: list[Trial] = []
    while len(trials) < most:
        strength = next_strength(trials, LIMIT, **HOW)
        if strength is None:
            break
        trials.append(Trial(strength, cost(strength)))
    return trials


def test_the_grid_before_there_is_a_bracket():
    assert next_strength([], LIMIT, **HOW) == 1.0
    assert next_strength([Trial(1.0, 0.9)], LIMIT, **HOW) == 2.0
    assert next_strength([Trial(1.0, 0.9), Trial(2.0, 0.95)], LIMIT, **HOW) == 4.0
    assert next_strength([Trial(1.0, 0.1)], LIMIT, **HOW) == 0.5
    assert next_strength([Trial(1.0, 0.1), Trial(0.5, 0.2)], LIMIT, **HOW) == 0.25


def test_a_hit_is_at_most_the_limit_and_not_far_below():
    for cost, hit in ((0.5, True), (0.49, True), (0.4899, False), (0.501, False)):
        assert hits(Trial(1.0, cost), LIMIT, TOLERANCE) is hit
        ends = next_strength([Trial(1.0, cost)], LIMIT, **HOW) is None
        assert ends is hit


def test_interpolation_is_linear_in_the_logarithm():
    def after(*trials: Trial) -> float:
        return math.log2(next_strength(trials, LIMIT, **HOW))  # aims at .495

    weak, strong = Trial(1.0, 0.9), Trial(16.0, 0.1)
    assert after(weak, strong) == pytest.approx(4 * 0.405 / 0.8)
    assert after(Trial(1.0, 1.0), Trial(16.0, 0.48)) == pytest.approx(4 * 0.9)  # kept off the ends
    assert after(Trial(1.0, 0.51), Trial(16.0, 0.1)) == pytest.approx(4 * 0.1)
    assert after(weak, Trial(2.0, 0.4), Trial(4.0, 0.6), strong) == pytest.approx(2 - 0.105 / 0.2)


@given(st.floats(-4, 4), st.floats(0.5, 6))
def test_a_falling_curve_is_hit(centre, power):
    trials = follow(lambda s: 1 / (1 + (s / math.exp(centre)) ** power))
    assert hits(trials[-1], LIMIT, TOLERANCE)
    assert len(trials) <= 16


@given(st.lists(st.floats(0, 1), min_size=12, max_size=12))
def test_whatever_the_costs_no_strength_is_tried_twice(costs):
    left = iter(costs)
    trials = follow(lambda _: next(left), most=12)
    assert len({round(math.log(trial.strength), 12) for trial in trials}) == len(trials)
    assert not any(hits(trial, LIMIT, TOLERANCE) for trial in trials[:-1])


def test_the_best_is_the_costliest_within_the_limit_else_the_cheapest():
    within = [Trial(1, 0.9), Trial(2, 0.3), Trial(3, 0.45), Trial(4, 0.5001)]
    assert best_trial(within, LIMIT) == 2
    assert best_trial([Trial(1, 0.9), Trial(2, 0.7), Trial(3, 0.8)], LIMIT) == 1
    assert best_trial([Trial(1, 0.9), Trial(2, 0.5)], LIMIT) == 1  # the limit itself is within
