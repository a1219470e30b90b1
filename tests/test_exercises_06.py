"""Checks of notebook 06: the answers pass, typical mistakes do not."""

import pytest
import torch
from course.exercises import n06
from course.sensitivity import correlate
from scipy.stats import spearmanr

WRONG = [
    (n06.check_spearman, lambda x, y: correlate(x, y).pearson, "ranks"),
    (n06.check_spearman, lambda x, y: correlate(x.argsort(), y.argsort()).pearson, "ranks"),
]


def test_answers_pass(capsys) -> None:
    n06.check_spearman(n06.solution_spearman)
    assert capsys.readouterr().out.count("right on all") == 1


@pytest.mark.parametrize(("check", "learner", "hint"), WRONG)
def test_mistakes_are_refused_with_a_hint(check, learner, hint: str) -> None:
    with pytest.raises(AssertionError, match=hint):
        check(learner)


def test_ranks_agree_with_scipy() -> None:
    x, y = torch.randn(2, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert n06.solution_spearman(x, y) == pytest.approx(spearmanr(x, y)[0])
