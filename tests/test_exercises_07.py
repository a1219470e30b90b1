"""Notebook 07: each check passes its solution and fails typical wrong answers."""

import numpy as np
import pytest
from course.exercises import n07

WRONG = {
    "in_multiples": [
        lambda a, n, d: ((a * n) // d * d).long(),  # loses whole groups
        lambda a, n, d: ((a * n / d).round() * d).long().clamp_min(d),  # up as well
        lambda a, n, d: ((a * n) // d * d).long().clamp_min(d),  # more than there is
    ],
    "cost_for": [
        lambda costs, scores, s: float(np.interp(s, scores, costs)),  # invents beyond the ends
        lambda costs, scores, s: costs[int(np.argmax(np.array(scores) >= s))],  # points only
        lambda costs, scores, s: n07.solution_cost_for(costs[::-1], scores[::-1], s),
    ],
}


@pytest.mark.parametrize("name", WRONG)
def test_solution_passes(name, capsys):
    getattr(n07, f"check_{name}")(getattr(n07, f"solution_{name}"))
    assert "right on all" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "answer"), [(name, answer) for name, answers in WRONG.items() for answer in answers]
)
def test_wrong_answers_fail_with_a_hint(name, answer):
    with pytest.raises(AssertionError, match="hint"):
        getattr(n07, f"check_{name}")(answer)
