"""The check of notebook 11 passes the answer, and fails what learners write at first."""

import pytest
from course.exercises import n11
from graders import graded


def without_none(share, speedup):
    return (1 / speedup - (1 - share)) / share


WRONG = {
    n11.check_macs_for: [
        lambda share, speedup: 1 / speedup,  # only the convolutions get faster
        lambda share, speedup: 1 / (share * speedup),
        without_none,
        lambda share, speedup: max(0.0, without_none(share, speedup)),
    ]
}
SOLUTIONS = {n11.check_macs_for: n11.solution_macs_for}

test_the_answer_passes, test_typical_wrong_answers_fail = graded(SOLUTIONS, WRONG)


def test_what_is_left_gives_the_speed_up():
    left = n11.solution_macs_for(0.8, 1.5)
    assert 1 / (0.8 * left + 0.2) == pytest.approx(1.5)
