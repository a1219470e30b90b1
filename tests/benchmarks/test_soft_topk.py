"""How long a forward and backward pass of soft_topk takes: `pytest tests/benchmarks`.

The 30 channel groups of ResNet-56 (widths 16, 32, 64; 1120 channels) at keep ratio 0.5, float32.
The peer is what one would write without the operator: SciPy's `root_scalar` group by group, the
gradient by the implicit function theorem in NumPy. Nothing here fails by being slow.
"""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import root_scalar
from scipy.special import expit
from torch import Tensor
from torch.testing import assert_close

from dsa_core.kernels import soft_topk

WIDTHS = [16] * 10 + [32] * 10 + [64] * 10
RATIO = 0.5


def problem(temperature: float) -> tuple[Tensor, Tensor, Tensor, float]:
    """Scores like log |gamma|, counts, offsets, temperature."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor(WIDTHS)
    scores = torch.rand(int(sizes.sum()), generator=generator).clamp_min(1e-3).log()
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    return scores, RATIO * sizes, offsets, temperature


def by_operator(scores: Tensor, k: Tensor, offsets: Tensor, temperature: float) -> list[Tensor]:
    """p, and the gradients of sum i p_i."""
    scores, k = scores.clone().requires_grad_(), k.clone().requires_grad_()
    p = soft_topk(scores, k, offsets, temperature=temperature)
    weight = torch.arange(len(p), dtype=p.dtype)
    return [p.detach(), *torch.autograd.grad(p @ weight, (scores, k))]


def by_scipy(scores: Tensor, k: Tensor, offsets: Tensor, temperature: float) -> list[Tensor]:
    """The same, one group after the other."""
    s, counts, edges = scores.double().numpy(), k.double().numpy(), offsets.numpy()
    p, grad_s, grad_k = np.empty_like(s), np.empty_like(s), np.empty_like(counts)
    for g, (a, b) in enumerate(itertools.pairwise(edges)):
        x, kept = s[a:b] / temperature, counts[g]
        logit = np.log(kept / (b - a - kept))
        bracket = (x.min() - logit - 1e-9, x.max() - logit + 1e-9)
        root = root_scalar(lambda t, x=x, kept=kept: expit(x - t).sum() - kept, bracket=bracket)
        q = expit(x - root.root)
        w = q * (1 - q)
        share, weight = w / w.sum(), np.arange(a, b)
        p[a:b], grad_k[g] = q, share @ weight
        grad_s[a:b] = w / temperature * (weight - grad_k[g])
    return [torch.from_numpy(y).float() for y in (p, grad_s, grad_k)]


@pytest.mark.parametrize("temperature", [1.0, 0.05])
@pytest.mark.parametrize("solve", [by_operator, by_scipy], ids=lambda solve: solve.__name__)
def test_forward_and_backward(
    benchmark: Callable[..., list[Tensor]], solve: Callable[..., list[Tensor]], temperature: float
) -> None:
    arguments = problem(temperature)
    result = benchmark(solve, *arguments)
    # float32 weights up to 1120: the gradient is a difference of sums of that size
    for got, wanted in zip(result, by_scipy(*arguments), strict=True):
        assert_close(got, wanted, rtol=1e-4, atol=2e-3)
