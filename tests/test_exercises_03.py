"""Notebook 03: every check passes its answer and refuses what is usually got wrong."""

import pytest
import torch
from course.exercises import n03
from torch import Tensor
from torch.testing import assert_close


def bisected(b: Tensor, k: float, beta2: float) -> float:
    low, high = float(b.log().min()) - 50 / beta2, float(b.log().max()) + 50 / beta2
    for _ in range(60):
        middle = (low + high) / 2
        kept = float(n03.keep_probability(b, torch.tensor(middle).exp(), beta2).sum())
        low, high = (middle, high) if kept > k else (low, middle)
    return low


def sinkhorn(s: Tensor, k: float, eps: float, steps: int = 2000) -> Tensor:
    n = len(s)
    y = torch.tensor([0.0, 1.0], dtype=s.dtype)
    rows = torch.full((n,), 1 / n, dtype=s.dtype)
    columns = torch.tensor([1 - k / n, k / n], dtype=s.dtype)
    kernel, v = torch.exp(-((s[:, None] - y) ** 2) / eps), torch.ones(2, dtype=s.dtype)
    for _ in range(steps):
        u = rows / (kernel @ v)
        v = columns / (kernel.T @ u)
    return n * u * kernel[:, 1] * v[1]


RIGHT = [
    (n03.check_keep_probability, n03.keep_probability),
    (
        n03.check_keep_probability,
        lambda b, beta1, beta2: torch.sigmoid(beta2 * (b.log() - torch.tensor(beta1).log())),
    ),
    (n03.check_log_threshold, n03.log_threshold),
    (n03.check_log_threshold, bisected),
    (n03.check_inexactness, n03.inexactness),
    (n03.check_ratio_gradient, n03.ratio_gradient),
    (n03.check_transport_mask, n03.transport_mask),
    (n03.check_transport_mask, sinkhorn),
]
WRONG = [
    (n03.check_keep_probability, lambda b, beta1, beta2: 1 / (1 + (b / beta1) ** beta2)),
    (n03.check_keep_probability, lambda b, beta1, beta2: torch.sigmoid(beta2 * (b - beta1))),
    (n03.check_log_threshold, lambda b, k, beta2: torch.tensor(bisected(b, k, beta2)).exp()),
    (  # the k-th largest: where the mask would turn if it were hard
        n03.check_log_threshold,
        lambda b, k, beta2: float(b.log().sort(descending=True).values[int(k) - 1]),
    ),
    (n03.check_inexactness, lambda p: (p * (1 - p)).mean()),
    (n03.check_inexactness, lambda p: (p * (1 - p)).sqrt().sum()),
    (n03.check_ratio_gradient, lambda g, p: (g * p * (1 - p)).sum() / (p * (1 - p)).sum()),
    (n03.check_ratio_gradient, lambda g, p: len(p) * g.mean()),
    (n03.check_ratio_gradient, lambda g, p: len(p) * (g * p).sum() / p.sum()),
    (n03.check_transport_mask, lambda s, k, eps: n03.transport_mask(s, k, 2 * eps)),
    (n03.check_transport_mask, lambda s, k, eps: sinkhorn(s, k, eps) / len(s)),
    (n03.check_transport_mask, lambda s, k, eps: sinkhorn(s, len(s) - k, eps)),
]


@pytest.mark.parametrize(("check", "answer"), RIGHT)
def test_right_answers_pass(check, answer, capsys) -> None:
    check(answer)
    assert "right on all" in capsys.readouterr().out


@pytest.mark.parametrize(("check", "answer"), WRONG)
def test_usual_mistakes_are_refused_with_a_hint(check, answer) -> None:
    with pytest.raises(AssertionError, match="hint"):
        check(answer)


def test_the_gradient_of_the_answer_is_that_of_the_loss() -> None:
    b = n03.importances(0, 6)[0]
    g, alpha = torch.randn(6, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    alpha.requires_grad_()
    p = n03.soft_topk(b.log(), (6 * alpha).reshape(1), torch.tensor([0, 6]), temperature=0.5)
    (g * p).sum().backward()
    assert_close(n03.ratio_gradient(g, p.detach()), alpha.grad)
