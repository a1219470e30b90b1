"""Checks of notebook 01: the answers pass, typical mistakes do not."""

import pytest
from course.exercises import n01

WRONG = [
    (n01.check_macs_left, lambda image, widths, ratio: ratio, "first layer"),
    (n01.check_macs_left, lambda image, widths, ratio: ratio**2, "first layer"),
]


def test_the_answer_passes(capsys) -> None:
    n01.check_macs_left(n01.solution_macs_left)
    assert capsys.readouterr().out.count("right on all") == 1


@pytest.mark.parametrize(("check", "learner", "hint"), WRONG)
def test_mistakes_are_refused_with_a_hint(check, learner, hint: str) -> None:
    with pytest.raises(AssertionError, match=hint):
        check(learner)


def test_the_answer_by_hand() -> None:
    """Two layers of 4: dense 3*4 + 4*4 = 28; half of each: 3*2 + 2*2 = 10."""
    assert n01.solution_macs_left(3, [4, 4], 0.5) == pytest.approx(10 / 28)
