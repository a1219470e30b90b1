"""Checks of notebook 06: the answers pass, typical mistakes do not."""

import pytest
import torch
from course.exercises import n06
from course.sensitivity import correlate
from graders import graded
from scipy.stats import spearmanr

WRONG = {
    n06.check_spearman: [
        (lambda x, y: correlate(x, y).pearson, "ranks"),
        (lambda x, y: correlate(x.argsort(), y.argsort()).pearson, "ranks"),
    ],
}

test_answers_pass, test_typical_slips_do_not = graded(n06, WRONG)


def test_ranks_agree_with_scipy() -> None:
    x, y = torch.randn(2, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert n06.solution_spearman(x, y) == pytest.approx(spearmanr(x, y)[0])
