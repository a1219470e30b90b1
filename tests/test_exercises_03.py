"""Notebook 03: every check passes its answer and refuses what is usually got wrong."""

import torch
from course.exercises import n03
from graders import graded
from torch import Tensor
from torch.testing import assert_close

from dsa_core.kernels import soft_topk


def bisected(b: Tensor, k: float, beta2: float) -> float:
    low, high = float(b.log().min()) - 50 / beta2, float(b.log().max()) + 50 / beta2
    for _ in range(60):
        middle = (low + high) / 2
        kept = float(torch.sigmoid(beta2 * (b.log() - middle)).sum())
        low, high = (middle, high) if kept > k else (low, middle)
    return low


ALSO_RIGHT = [
    (n03.check_log_threshold, bisected),
]
WRONG = {
    n03.check_log_threshold: [
        lambda b, k, beta2: torch.tensor(bisected(b, k, beta2)).exp(),
        # the k-th largest: where the mask would turn if it were hard
        lambda b, k, beta2: float(b.log().sort(descending=True).values[int(k) - 1]),
    ],
    n03.check_ratio_gradient: [
        lambda g, p: (g * p * (1 - p)).sum() / (p * (1 - p)).sum(),
        lambda g, p: len(p) * g.mean(),
        lambda g, p: len(p) * (g * p).sum() / p.sum(),
    ],
}

test_answers_pass, test_typical_slips_do_not = graded(n03, WRONG, ALSO_RIGHT)


def test_the_gradient_of_the_answer_is_that_of_the_loss() -> None:
    b = n03.importances(0, 6)[0]
    g, alpha = torch.randn(6, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    alpha.requires_grad_()
    p = soft_topk(b.log(), (6 * alpha).reshape(1), torch.tensor([0, 6]), temperature=0.5)
    (g * p).sum().backward()
    assert_close(n03.ratio_gradient(g, p.detach()), alpha.grad)
