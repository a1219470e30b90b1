"""Grading: right answers pass, wrong ones are told what differs, undone ones do not fail."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from course.exercises import grade, predict, try_it
from torch import Tensor

INPUTS = [(torch.tensor([1.0, -2.0]),), (torch.tensor([0.0, 3.0]),)]


def solution_twice(x: Tensor) -> Tensor:
    return 2 * x


grade_twice = partial(grade, solution_twice, INPUTS, hint="add x to itself")


def graded(wanted: Any, got: Any) -> None:
    grade(lambda: wanted, [()], lambda: got, hint="-")


def undone(x: Tensor) -> Tensor:
    raise NotImplementedError


def test_a_right_answer_in_another_form_passes(capsys) -> None:
    for learner in (lambda x: (x + x).double(), lambda x: (2 * x).tolist()):
        grade_twice(learner)
        assert capsys.readouterr().out == "twice: right on all 2 inputs\n"
    graded(6.0, torch.tensor(6.0))


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        (lambda x: x * x, "entries differ, by up to"),
        (lambda x: -2 * x, "sign the wrong way round"),
        (lambda x: 6 * x, "0.3333 times yours would be right"),
        (lambda x: None, "return` missing"),
        (lambda x: (2 * x)[:1], "shapes differ"),
        (lambda x: x / 0 * 0, "nan"),
        (lambda x: x.no_such_thing, "AttributeError"),
        (lambda x: (x > 0) @ (x > 0), "NotImplementedError"),  # of torch, not of the learner
        (lambda x: x.mul_(2), "changes its argument"),
        (lambda x: "two", "returned a str"),
    ],
)
def test_a_wrong_answer_is_told_what_differs(
    learner: Callable[[Tensor], Any], message: str
) -> None:
    with pytest.raises(AssertionError, match=message) as caught:
        grade_twice(learner)
    assert "add x to itself" in str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "wrong", "said"),
    [
        (1.0, 1.01, "not yet right, on input 1 of 1"),
        (None, 1.0, "the answers differ"),
        (True, False, "differ by 1\n"),
        ((1.0, 2.0), (1.0,), "shapes differ"),
        ([1.0, 2.0], [1.0, 3.0], "1 of 2 entries differ, by up to 1\n"),
        (6000, 12000, "0.5 times yours would be right"),
        (torch.tensor(0.25), torch.tensor(1.0), "0.25 times yours"),
        (5.0, 4.0, "differ by 1\n"),  # some factor is between any two numbers
        ([2, 3], [4, 6], "by up to 3\n"),  # of ids or a few, factors say nothing
        (torch.ones(2, 9), torch.zeros(2, 9), r"got: +tensor of shape \(2, 9\): .*18 in all\]\n"),
    ],
)
def test_every_kind_of_answer_is_compared(wanted: Any, wrong: Any, said: str) -> None:
    graded(wanted, wanted)
    with pytest.raises(AssertionError, match=said):
        graded(wanted, wrong)


def test_an_exercise_not_begun_is_no_failure(capsys) -> None:
    try_it(grade_twice, undone)
    assert "undone: not done yet" in capsys.readouterr().out


def test_a_wrong_answer_fails_under_test_and_is_only_printed_elsewhere(monkeypatch, capsys) -> None:
    with pytest.raises(AssertionError):
        try_it(grade_twice, lambda x: x)
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    try_it(grade_twice, lambda x: x)
    assert "not yet right, on input 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("guess", "said"),
    [("up", "weigh: up; as you said"), ("down", "you said down"), ("", "not done yet")],
)
def test_an_experiment_runs_after_the_guess(guess: str, said: str, capsys) -> None:
    ran: list[str] = []

    def weigh() -> str:
        ran.append("yes")
        return "up"

    predict(guess, weigh, "up", "down")
    assert said in capsys.readouterr().out
    assert bool(ran) == bool(guess)


def test_comparing_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no inputs"):
        grade(solution_twice, [], solution_twice, hint="-")
