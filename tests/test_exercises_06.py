"""Checks of notebook 06: the answers pass, typical mistakes do not."""

import pytest
import torch
from course.exercises import n06
from course.sensitivity import correlate, softmax_scaled
from scipy.stats import spearmanr

from dsa_core.kernels import soft_topk

WRONG = [
    (n06.check_spearman, lambda x, y: correlate(x, y).pearson, "ranks"),
    (n06.check_spearman, lambda x, y: correlate(x.argsort(), y.argsort()).pearson, "ranks"),
    (n06.check_ratio_slope, lambda g, p: float(g.sum()), "proportion"),
    (
        n06.check_ratio_slope,
        lambda g, p: float((g * p * (1 - p)).sum() / (p * (1 - p)).sum()),
        "C d",
    ),
    (n06.check_softmax_scaled, lambda v: v.softmax(0), "standard deviation"),
    (n06.check_softmax_scaled, lambda v: (v / v.std()).softmax(0), "standard deviation"),
]


def test_answers_pass(capsys) -> None:
    n06.check_spearman(n06.solution_spearman)
    n06.check_ratio_slope(n06.solution_ratio_slope)
    n06.check_softmax_scaled(softmax_scaled)
    assert capsys.readouterr().out.count("right on all") == 3


@pytest.mark.parametrize(("check", "learner", "hint"), WRONG)
def test_mistakes_are_refused_with_a_hint(check, learner, hint: str) -> None:
    with pytest.raises(AssertionError, match=hint):
        check(learner)


def test_ranks_agree_with_scipy() -> None:
    x, y = torch.randn(2, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert n06.solution_spearman(x, y) == pytest.approx(spearmanr(x, y)[0])


def test_the_slope_by_hand_is_that_of_the_operator() -> None:
    draw = torch.Generator().manual_seed(2)
    scores, g = torch.randn(2, 5, generator=draw, dtype=torch.float64)
    alpha = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
    p = soft_topk(scores, 5 * alpha, torch.tensor([0, 5]), temperature=0.5)
    (slope,) = torch.autograd.grad((g * p).sum(), alpha)
    assert n06.solution_ratio_slope(g, p.detach()) == pytest.approx(float(slope))
