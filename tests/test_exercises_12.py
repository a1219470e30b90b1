"""Checks of notebook 12: the answers pass, typical mistakes do not."""

import math
from statistics import fmean, pstdev, stdev, variance

import numpy as np
import pytest
from course.exercises import n12
from graders import graded
from scipy.stats import t as student
from scipy.stats import ttest_ind


def interval_with(degrees, spread=variance):
    def interval(a, b):
        error = math.sqrt(spread(a) / len(a) + spread(b) / len(b))
        half = student.ppf(0.975, degrees(a, b)) * error
        return fmean(a) - fmean(b) - half, fmean(a) - fmean(b) + half

    return interval


def chance(count):
    return lambda value, random: count(value, random) / (len(random) + 1)


WRONG = {
    n12.check_interval: [
        (interval_with(lambda a, b: len(a) + len(b) - 2), "degrees"),
        (interval_with(lambda a, b: 1e9), "degrees"),
        (interval_with(lambda a, b: 4, lambda v: pstdev(v) ** 2), "n - 1"),
        (interval_with(lambda a, b: 4, stdev), "squared"),
    ],
    n12.check_seeds: [
        (lambda d, s: math.ceil((1.96 * s / d) ** 2), "difference of two"),
        (lambda d, s: 2 * (1.96 * s / d) ** 2, "round up"),
        (lambda d, s: math.floor(2 * (1.96 * s / d) ** 2), "round up"),
        (lambda d, s: math.ceil(2 * 1.96 * s / d), "sqrt"),
    ],
    n12.check_by_chance: [
        (lambda v, r: sum(x >= v for x in r) / len(r), "itself"),
        (chance(lambda v, r: sum(x >= v for x in r)), "one more draw"),
        (chance(lambda v, r: 1 + sum(x > v for x in r)), "as high"),
        (chance(lambda v, r: 1 + sum(x <= v for x in r)), "higher"),
    ],
}

test_answers_pass, test_typical_slips_do_not = graded(n12, WRONG)


def test_the_interval_is_scipys():
    def interval(first, second):
        found = ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
        return found.low, found.high

    n12.check_interval(interval)


def test_with_so_many_seeds_the_difference_is_more_than_its_interval():
    for distance, spread in ((0.7, 0.2), (0.2, 0.2), (0.1, 0.3)):
        n = n12.solution_seeds(distance, spread)
        halves = [1.96 * spread * math.sqrt(2 / m) for m in (n, max(n - 1, 1))]
        assert halves[0] < distance
        assert n == 1 or halves[1] >= distance * (1 - 1e-4)


def test_a_value_drawn_like_the_others_is_rarely_high_by_chance():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(4000, 10))
    shares = [n12.solution_by_chance(row[0], row[1:]) for row in draws]
    assert np.mean(np.array(shares) <= 0.1) == pytest.approx(0.1, abs=0.02)  # 4 standard errors
    assert min(shares) == 0.1


def test_an_interval_just_short_enough_leaves_out_0_every_other_time():
    rng = np.random.default_rng(1)
    distance, spread = 0.3, 0.4
    n = n12.solution_seeds(distance, spread)
    a, b = (rng.normal(mean, spread, (20_000, n)).mean(1) for mean in (distance, 0))
    seen = np.mean(a - b > 1.96 * spread * math.sqrt(2 / n))
    assert seen == pytest.approx(0.5, abs=0.05)  # n is whole, so a little more than half
