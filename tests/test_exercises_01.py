"""Checks of notebook 01: the answers pass, typical mistakes do not."""

import pytest
from course.exercises import n01
from graders import graded

WRONG = {
    n01.check_macs_left: [
        (lambda image, widths, ratio: ratio, "first layer"),
        (lambda image, widths, ratio: ratio**2, "first layer"),
    ],
}

test_answers_pass, test_typical_slips_do_not = graded(n01, WRONG)


def test_the_answer_by_hand() -> None:
    """Two layers of 4: dense 3*4 + 4*4 = 28; half of each: 3*2 + 2*2 = 10."""
    assert n01.solution_macs_left(3, [4, 4], 0.5) == pytest.approx(10 / 28)
