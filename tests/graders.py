"""The two tests of every exercise: the answer passes, typical slips do not."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

Answer = Callable[..., Any]


def graded(
    solutions: Mapping[Answer, Answer], wrong: Mapping[Answer, Sequence[Answer]]
) -> tuple[Answer, Answer]:
    """Tests of check functions, by their right answers and by wrong ones."""

    @pytest.mark.parametrize("check", solutions, ids=lambda check: check.__name__)
    def right(check: Answer, capsys: pytest.CaptureFixture[str]) -> None:
        check(solutions[check])
        assert "right on all" in capsys.readouterr().out

    pairs = [(check, answer) for check, several in wrong.items() for answer in several]

    @pytest.mark.parametrize(("check", "answer"), pairs)
    def refused(check: Answer, answer: Answer) -> None:
        with pytest.raises(AssertionError, match="hint: "):
            check(answer)

    return right, refused
