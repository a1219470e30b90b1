"""Checks of notebook 01: the answers pass, typical mistakes do not."""

import pytest
from course.exercises import n01

WRONG = [
    (n01.check_macs_left, lambda image, widths, ratio: ratio, "first layer"),
    (n01.check_macs_left, lambda image, widths, ratio: ratio**2, "first layer"),
    (n01.check_ratio_for, lambda budget, quadratic, linear: budget, "solve"),
    (n01.check_ratio_for, lambda budget, quadratic, linear: budget**0.5, "solve"),
    (n01.check_friendly, lambda count, divisor, size: count // divisor * divisor, "one step"),
    (n01.check_friendly, lambda count, divisor, size: round(count / divisor) * divisor, "down"),
    (n01.check_friendly, lambda count, divisor, size: -(-count // divisor) * divisor, "down"),
]


def test_answers_pass(capsys) -> None:
    n01.check_macs_left(n01.solution_macs_left)
    n01.check_ratio_for(n01.solution_ratio_for)
    n01.check_friendly(n01.solution_friendly)
    assert capsys.readouterr().out.count("right on all") == 3


@pytest.mark.parametrize(("check", "learner", "hint"), WRONG)
def test_mistakes_are_refused_with_a_hint(check, learner, hint: str) -> None:
    with pytest.raises(AssertionError, match=hint):
        check(learner)


def test_answers_by_hand() -> None:
    """Two layers of 4: dense 3*4 + 4*4 = 28; half of each: 3*2 + 2*2 = 10."""
    assert n01.solution_macs_left(3, [4, 4], 0.5) == pytest.approx(10 / 28)
    assert n01.solution_ratio_for(0.25, 1.0, 0.0) == pytest.approx(0.5)
    assert [n01.solution_friendly(c, 8, 32) for c in (5, 8, 15, 31, 32)] == [8, 8, 8, 24, 32]
