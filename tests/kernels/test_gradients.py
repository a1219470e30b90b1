"""Gradients of soft_topk: gradcheck, closed form, finite differences, and their limits."""

from collections.abc import Callable
from functools import partial

import oracle
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.autograd.functional import jacobian
from torch.testing import assert_close

from dsa_core.kernels import soft_topk

Op = Callable[..., Tensor]
Tol = Callable[[torch.dtype], dict[str, float]]
OFFSETS = torch.tensor([0, 1, 3, 10, 16])


def draw(seed: int = 0) -> Tensor:
    """Scores of four segments of 1, 2, 7 and 6 channels, two of them tied."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(16, generator=generator, dtype=torch.float64)
    scores[5] = scores[4]
    return scores


def one(op: Op, k: float, temperature: float) -> Callable[..., Tensor]:
    """The operator on one segment, as a function of scores and of k."""

    def f(scores: Tensor, count: Tensor | None = None) -> Tensor:
        kept = torch.full((1,), k, dtype=torch.float64) if count is None else count
        return op(scores, kept, torch.tensor([0, len(scores)]), temperature=temperature)

    return f


EACH = torch.tensor([0.3, 1.0, 2.0, 0.5], dtype=torch.float64)


@pytest.mark.parametrize("ratio", [1e-3, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0, EACH], ids=str)
def test_gradcheck(op: Op, ratio: float, temperature: float | Tensor) -> None:
    scores = draw().requires_grad_()
    k = (ratio * OFFSETS.diff().double()).requires_grad_()

    def f(scores: Tensor, k: Tensor) -> Tensor:
        return op(scores, k, OFFSETS, temperature=temperature)

    assert gradcheck(f, (scores, k), eps=1e-6, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("temperature", [1e-3, 0.1, 1.0, 1e3])
@pytest.mark.parametrize("k", [1e-4, 0.5, 2.0, 3.4, 6.0, 6.9999])
def test_closed_form_jacobian(op: Op, temperature: float, k: float) -> None:
    scores = temperature * 3 * draw(seed=3)[:7]  # neither dead nor uniform at any temperature
    count = torch.tensor([k], dtype=torch.float64)
    p = oracle.keep_probs(scores, count, torch.tensor([0, 7]), temperature)
    dp_ds, dp_dk = oracle.jacobians(p, temperature)
    f = one(op, k, temperature)
    # 1 - p at k = 6.9999 is known to 1e-16 / 1e-5 relative in the formula's w
    assert_close(jacobian(f, scores) * temperature, dp_ds * temperature, rtol=1e-8, atol=1e-10)
    assert_close(jacobian(lambda c: f(scores, c), count)[:, 0], dp_dk, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_limits_of_the_share_of_k(op: Op, tolerance: Tol, dtype: torch.dtype) -> None:
    # k -> 0: dp/dk = softmax(s / T);  k -> n and k = n: softmax(-s / T), where dp/ds = 0
    s = draw(seed=6)[:7].to(dtype)
    scores = torch.cat([s, s, s]).requires_grad_()
    k = torch.tensor([1e-20, 7 - 1e-12, 7.0], dtype=torch.float64, requires_grad=True)
    p = op(scores, k, torch.tensor([0, 7, 14, 21]), temperature=0.5)
    softmax, softmin = torch.softmax(s / 0.5, 0), torch.softmax(-s / 0.5, 0)
    for g, wanted in enumerate([softmax, softmin, softmin]):
        for i in range(7):
            (grad,) = torch.autograd.grad(p[7 * g + i], k, retain_graph=True)
            assert_close(grad[g].to(dtype), wanted[i], **tolerance(dtype))
    (grad,) = torch.autograd.grad(p[14:].square().sum(), scores)
    assert not grad.any()


@pytest.mark.parametrize("temperature", [1e-6, 1e-3, 1e-2])
def test_whole_count_on_a_plateau_shares_between_its_two_edges(temperature: float) -> None:
    # sharp and k = 2: the wrong side of the 2nd and the 3rd balance, so w_2 = w_3, others vanish;
    # w itself underflows (exp(-5e5)), its shares must not. The reference cannot see that: its sum
    # is 2 to the last bit all along the plateau
    scores = torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    f = one(partial(soft_topk, backend="torch"), 2.0, temperature)
    share = jacobian(lambda c: f(scores, c), torch.tensor([2.0], dtype=torch.float64))[:, 0]
    assert_close(share, torch.tensor([0, 0.5, 0.5, 0], dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("temperature", [1e-3, 1.0, 1e3])
def test_float32_gradient_equals_float64(op: Op, tolerance: Tol, temperature: float) -> None:
    s32 = (temperature * draw(seed=7)).float()
    weight = torch.linspace(-1, 1, 16)
    grads = []
    for dtype in (torch.float32, torch.float64):
        scores = s32.to(dtype).requires_grad_()
        k = torch.tensor([0.5, 1.25, 3.0, 5.5], dtype=dtype, requires_grad=True)
        p = op(scores, k, OFFSETS, temperature=temperature)
        grads.append(torch.autograd.grad((weight.to(dtype) * p).sum(), (scores, k)))
    assert grads[0][0].dtype == grads[0][1].dtype == torch.float32
    for low, high in zip(*grads, strict=True):
        unit = temperature if low.shape == s32.shape else 1.0
        assert_close(unit * low, (unit * high).float(), **tolerance(torch.float32))


def test_count_may_have_another_dtype_than_the_scores(op: Op) -> None:
    ratio = torch.tensor([0.3, 0.6], dtype=torch.float64, requires_grad=True)
    offsets = torch.tensor([0, 4, 16])
    p = op(draw().float(), ratio * offsets.diff(), offsets, temperature=1.0)
    p.sum().backward()
    # sum p = alpha C, so d sum p / d alpha = C
    assert ratio.grad.dtype == torch.float64
    assert_close(ratio.grad, torch.tensor([4.0, 12.0]).double(), rtol=1e-6, atol=0.0)


def test_differentiable_once_only(op: Op) -> None:
    scores = draw().requires_grad_()
    p = op(scores, 0.5 * OFFSETS.diff().double(), OFFSETS, temperature=1.0)
    (grad,) = torch.autograd.grad(p.square().sum(), scores, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
