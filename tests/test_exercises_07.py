"""Notebook 07: each check passes its solution and fails typical wrong answers."""

import pytest
import torch
from course.exercises import n07

WRONG = {
    "last_above": [
        lambda costs, budget: int((costs < budget).nonzero()[0]) - 1,  # the first crossing
        lambda costs, budget: int((costs - budget).abs().argmin()),  # the nearest
        lambda costs, budget: int((costs > budget).nonzero()[-1]),  # at the budget is enough
    ],
    "in_multiples": [
        lambda a, n, d: ((a * n) // d * d).long(),  # loses whole groups
        lambda a, n, d: ((a * n / d).round() * d).long().clamp_min(d),  # up as well
        lambda a, n, d: ((a * n) // d * d).long().clamp_min(d),  # more than there is
    ],
    "predict": [
        lambda costs, scores, c: scores[min(range(3), key=lambda i: abs(costs[i] - c))],
        lambda costs, scores, c: scores[0] + (scores[-1] - scores[0]) * (c - costs[0]) / 0.75,
        lambda costs, scores, c: float(torch.tensor(scores).mean()),
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


def test_extending_the_line_is_caught():
    def extends(costs, scores, cost):
        found = n07.solution_predict(costs, scores, cost)
        slope = (scores[1] - scores[0]) / (costs[1] - costs[0])
        return scores[0] + slope * (cost - costs[0]) if found is None else found

    with pytest.raises(AssertionError, match="nobody knows"):
        n07.check_predict(extends)
