"""The two tests of every exercise: the answer passes, typical slips do not."""

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import pytest

Answer = Callable[..., Any]


def solutions_of(module: ModuleType) -> dict[Answer, Answer]:
    """Each `check_x` of a module with its answer, `solution_x` or plain `x`."""
    own = {n: v for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__}
    names = [name.removeprefix("check_") for name in own if name.startswith("check_")]
    return {own[f"check_{n}"]: own.get(f"solution_{n}") or own[n] for n in names}


def graded(
    solutions: ModuleType | Mapping[Answer, Answer],
    wrong: Mapping[Answer, Sequence[Answer | tuple[Answer, str]]],
    also: Sequence[tuple[Answer, Answer]] = (),
) -> tuple[Answer, Answer]:
    """Tests of check functions: by answers, and by slips, some with words of their hints."""
    answers = solutions_of(solutions) if isinstance(solutions, ModuleType) else solutions
    assert wrong.keys() == answers.keys()

    @pytest.mark.parametrize(("check", "answer"), [*answers.items(), *also])
    def right(check: Answer, answer: Answer, capsys: pytest.CaptureFixture[str]) -> None:
        check(answer)
        assert capsys.readouterr().out.count("right on all") == 1

    slips = [
        (check, *(slip if isinstance(slip, tuple) else (slip, "")))
        for check, several in wrong.items()
        for slip in several
    ]

    @pytest.mark.parametrize(("check", "answer", "word"), slips)
    def refused(check: Answer, answer: Answer, word: str) -> None:
        with pytest.raises(AssertionError, match="hint: ") as told:
            check(answer)
        assert word in str(told.value)

    return right, refused
