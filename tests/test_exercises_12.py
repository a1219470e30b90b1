"""The check of notebook 12 passes the answer, and fails what learners write at first."""

import math

import numpy as np
import pytest
from course.exercises import n12
from graders import graded

WRONG = {
    n12.check_seeds: [
        (lambda d, s: math.ceil((1.96 * s / d) ** 2), "difference of two"),
        (lambda d, s: 2 * (1.96 * s / d) ** 2, "round up"),
        (lambda d, s: math.floor(2 * (1.96 * s / d) ** 2), "round up"),
        (lambda d, s: math.ceil(2 * 1.96 * s / d), "sqrt"),
    ]
}

test_answers_pass, test_typical_slips_do_not = graded(n12, WRONG)


def test_with_so_many_seeds_the_difference_is_more_than_its_interval():
    for distance, spread in ((0.7, 0.2), (0.2, 0.2), (0.1, 0.3)):
        n = n12.solution_seeds(distance, spread)
        halves = [1.96 * spread * math.sqrt(2 / m) for m in (n, max(n - 1, 1))]
        assert halves[0] < distance
        assert n == 1 or halves[1] >= distance * (1 - 1e-4)


def test_an_interval_just_short_enough_leaves_out_0_every_other_time():
    rng = np.random.default_rng(1)
    distance, spread = 0.3, 0.4
    n = n12.solution_seeds(distance, spread)
    a, b = (rng.normal(mean, spread, (20_000, n)).mean(1) for mean in (distance, 0))
    seen = np.mean(a - b > 1.96 * spread * math.sqrt(2 / n))
    assert seen == pytest.approx(0.5, abs=0.05)  # n is whole, so a little more than half
