"""Grading: right answers pass, wrong ones are told what differs, undone ones do not fail."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from course.exercises import grade, predict, try_it
from torch import Tensor

INPUTS = [(torch.tensor([1.0, -2.0]),), (torch.tensor([0.0, 3.0]),)]


def twice(x: Tensor) -> Tensor:
    return 2 * x


def grade_twice(learner: Callable[..., Any]) -> None:
    grade("twice", learner, twice, INPUTS, hint="add x to itself")


def undone(x: Tensor) -> Tensor:
    raise NotImplementedError


def test_a_right_answer_in_another_form_passes(capsys) -> None:
    grade_twice(lambda x: (x + x).double())
    assert "right on all 2" in capsys.readouterr().out
    grade("sum", lambda x: x.sum(), lambda x: float(x.sum()), INPUTS, hint="-")
    grade("list", lambda x: x.tolist(), lambda x: x, INPUTS, hint="-")


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
        (lambda x: x.mul_(2), "changes its argument"),
        (lambda x: "two", "returned a str"),
    ],
)
def test_a_wrong_answer_is_told_what_differs(learner, message: str) -> None:
    with pytest.raises(AssertionError, match=message) as caught:
        grade_twice(learner)
    assert "add x to itself" in str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "wrong"),
    [
        (1.0, 1.01),
        (3, "x"),
        ({"a": 1.0}, {"b": 1.0}),
        ({"a": 1.0}, {"a": 2.0}),
        ((1.0, 2.0), (1.0,)),
        ([1.0, 2.0], [1.0, 3.0]),
        (["a"], ["b"]),
        ("yes", "no"),
        (True, False),
        ({1, 2}, {1}),
    ],
)
def test_every_kind_of_answer_is_compared(wanted, wrong) -> None:
    grade("kind", lambda: wanted, lambda: wanted, [()], hint="-")
    with pytest.raises(AssertionError, match="not yet right, on input 1 of 1"):
        grade("kind", lambda: wrong, lambda: wanted, [()], hint="-")


@pytest.mark.parametrize(
    ("wanted", "wrong", "said"),
    [
        (6000, 12000, "0.5 times yours would be right"),
        (torch.tensor(0.25), torch.tensor(1.0), "0.25 times yours"),
        (5.0, 4.0, "differ by 1\n"),  # some factor is between any two numbers
        (2, 4, "differ by 2\n"),
        ((torch.ones(2, 9), 1), (torch.zeros(2, 9), 1), r"got: +tensor of shape \(2, 9\).*; 1\n"),
    ],
)
def test_what_is_told_is_short_and_names_a_likely_factor(wanted, wrong, said) -> None:
    with pytest.raises(AssertionError, match=said):
        grade("kind", lambda: wrong, lambda: wanted, [()], hint="-")


def test_an_exercise_not_begun_is_no_failure(capsys) -> None:
    try_it(grade_twice, undone)
    assert "undone: not done yet" in capsys.readouterr().out
    with pytest.raises(NotImplementedError):
        grade_twice(undone)


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
        grade("none", twice, twice, [], hint="-")
