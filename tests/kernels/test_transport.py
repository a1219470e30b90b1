"""DTP's transport mask is soft_topk at half its temperature (Li et al., ICCV 2023)."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

Op = Callable[..., Tensor]


def sinkhorn_mask(scores: Tensor, k: float, eps: float, iterations: int = 2000) -> Tensor:
    """m_i = n P_i1 of  min_P <P, C> - eps H(P),  by alternating log-domain scaling.

    Source masses 1/n; targets y = (0, 1) of masses (1 - k/n, k/n); cost C_ij = (s_i - y_j)^2.
    """
    n = len(scores)
    log_a = torch.full((n,), -torch.log(torch.tensor(float(n))).item(), dtype=scores.dtype)
    log_b = torch.log(torch.tensor([1 - k / n, k / n], dtype=scores.dtype))
    log_kernel = -((scores[:, None] - torch.tensor([0.0, 1.0], dtype=scores.dtype)) ** 2) / eps
    g = torch.zeros(2, dtype=scores.dtype)
    for _ in range(iterations):
        f = log_a - torch.logsumexp(log_kernel + g, 1)
        g = log_b - torch.logsumexp(log_kernel + f[:, None], 0)
    return n * torch.exp(f + log_kernel[:, 1] + g[1])


@pytest.mark.parametrize("eps", [0.2, 0.5, 2.0])
@pytest.mark.parametrize("k", [1.0, 6.0, 13.5])
def test_soft_topk_is_two_target_transport(op: Op, eps: float, k: float) -> None:
    # Two targets: m_i = sigmoid((C_i0 - C_i1) / eps + t) = sigmoid((2 s_i - 1) / eps + t), and
    # (2 s - 1) / eps + t = (s - t') / (eps / 2): the temperature is eps / 2.
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(20, generator=generator, dtype=torch.float64)
    count = torch.tensor([k], dtype=torch.float64)
    mask = op(scores, count, torch.tensor([0, 20]), temperature=eps / 2)
    assert_close(mask, sinkhorn_mask(scores, k, eps), rtol=1e-8, atol=1e-9)


def test_its_gradient_is_that_of_the_transport(op: Op) -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(12, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.linspace(-1, 1, 12, dtype=torch.float64)
    count = torch.tensor([4.0], dtype=torch.float64)
    mask = op(scores, count, torch.tensor([0, 12]), temperature=0.25)
    (implicit,) = torch.autograd.grad((weight * mask).sum(), scores)
    unrolled = sinkhorn_mask(scores, 4.0, 0.5, iterations=300)  # through every iteration
    (through,) = torch.autograd.grad((weight * unrolled).sum(), scores)
    assert_close(implicit, through, rtol=1e-8, atol=1e-9)
