"""The check of notebook 11 passes the answer, and fails what learners write at first."""

import pytest
from course.exercises import n11
from graders import graded


def without_none(share, speedup):
    return (1 / speedup - (1 - share)) / share


WRONG = {
    n11.check_macs_for: [
        (lambda share, speedup: 1 / speedup, "the time left"),  # only convolutions get faster
        (lambda share, speedup: 1 / (share * speedup), "the time left"),
        (without_none, "as small as that"),
        (lambda share, speedup: max(0.0, without_none(share, speedup)), "as small as that"),
    ]
}

test_answers_pass, test_typical_slips_do_not = graded(n11, WRONG)


def test_what_is_left_gives_the_speed_up():
    left = n11.solution_macs_for(0.8, 1.5)
    assert 1 / (0.8 * left + 0.2) == pytest.approx(1.5)
