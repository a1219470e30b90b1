"""DTP's proximal sequence of transport masks, against the full plan in plain matrices."""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.autograd.functional import jacobian
from torch.testing import assert_close

from dsa_core.kernels import segment_sum
from dsa_core.methods.dtp_transport import Plan, proximal_step, sinkhorn, transport_mask

OFFSETS = torch.tensor([0, 20, 21, 30])
K = torch.tensor([6.0, 0.3, 7.5], dtype=torch.float64)


def draw(seed: int = 0, n: int = 30) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, generator=generator, dtype=torch.float64)


def steps(scores: Tensor, count: int, *, eps: float = 0.5) -> Tensor:
    """Masks after some steps with fixed scores."""
    plan = Plan.uniform(OFFSETS)
    for _ in range(count):
        mask, plan = proximal_step(scores, K, OFFSETS, plan, eps=eps)
    return mask


class FullPlan:
    """IPOT as printed: Gamma <- diag(u) (G * Gamma) diag(v), u = a / (Q v), v = b / (Q' u)."""

    def __init__(self, n: int) -> None:
        self.gamma = torch.ones(n, 2, dtype=torch.float64)
        self.v = torch.ones(2, dtype=torch.float64)

    def step(self, s: Tensor, k: float, eps: float) -> Tensor:
        n = len(s)
        cost = torch.stack([s**2, (s - 1) ** 2], 1)
        q = torch.exp(-cost / eps) * self.gamma
        u = (1 / n) / (q @ self.v)
        self.v = torch.tensor([1 - k / n, k / n], dtype=torch.float64) / (q.T @ u)
        self.gamma = u[:, None] * q * self.v
        return n * self.gamma[:, 1]


def test_one_step_of_sinkhorn_is_right_in_the_columns_and_many_in_the_rows() -> None:
    one, many = (sinkhorn(draw(), K, OFFSETS, eps=0.5, steps=n) for n in (1, 300))
    # by hand: rows against v = 1, then the column of the kept
    q = torch.sigmoid((2 * draw()[:20] - 1) / 0.5)
    assert_close(one[:20], 6 * q / q.sum())
    assert_close(many, transport_mask(draw(), K, OFFSETS, eps=0.5), rtol=1e-9, atol=1e-10)


def test_step_is_that_of_the_full_plan() -> None:
    plan = Plan.uniform(OFFSETS)
    full = [FullPlan(n) for n in OFFSETS.diff().tolist()]
    for t in range(30):  # the scores move, as in a training
        scores = draw(seed=t)
        mask, plan = proximal_step(scores, K, OFFSETS, plan, eps=0.5)
        parts = zip(full, scores.split(OFFSETS.diff().tolist()), K.tolist(), strict=True)
        wanted = torch.cat([one.step(s, k, 0.5) for one, s, k in parts])
        assert_close(mask, wanted, rtol=1e-9, atol=1e-12)
    gamma = torch.cat([one.gamma for one in full])
    # K = 0.3 of one channel: its row alone says P_1 / P_0 = k / (n - k)
    assert_close(plan.log_odds, (gamma[:, 1] / gamma[:, 0]).log(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("t", "bound"), [(20, 6e-3), (400, 1e-4)])
def test_steps_tend_to_a_plan_of_a_lower_entropy(t: int, bound: float) -> None:
    wanted = transport_mask(draw(), K, OFFSETS, eps=0.5 / t)
    mask = steps(draw(), t)
    assert float((mask - wanted).abs().max()) < bound  # falls about as 1 / t
    assert float((mask * (1 - mask))[:20].sum()) < 12 / t  # and the masks become decisions


@pytest.mark.parametrize("before", [0, 3])
def test_gradcheck(before: int) -> None:
    plan = Plan.uniform(OFFSETS)
    for t in range(before):
        plan = proximal_step(draw(seed=t), K, OFFSETS, plan, eps=0.5)[1]

    def mask(scores: Tensor, k: Tensor) -> Tensor:
        return proximal_step(scores, k, OFFSETS, plan, eps=0.5)[0]

    inputs = (draw(seed=9).requires_grad_(), K.clone().requires_grad_())
    assert gradcheck(mask, inputs, eps=1e-6, atol=1e-6, rtol=1e-4)


def test_the_jacobian_is_the_stated_one() -> None:
    s, k, eps, offsets = draw(n=9), 3.3, 0.4, torch.tensor([0, 9])
    count, plan = torch.tensor([k], dtype=torch.float64), Plan.uniform(offsets)
    q = torch.sigmoid((2 * s - 1) / eps)
    m, r = k * q / q.sum(), 1 - q
    wanted = 2 / eps * m[:, None] * (torch.diag(r) - torch.outer(torch.ones(9), r * m / k))
    got = jacobian(lambda x: proximal_step(x, count, offsets, plan, eps=eps)[0], s)
    assert_close(got, wanted, rtol=1e-9, atol=1e-12)


def test_everything_kept_leaves_nothing_to_decide() -> None:
    k = torch.tensor([20.0, 1.0, 4.0], dtype=torch.float64)
    scores = draw().requires_grad_()
    mask, plan = proximal_step(scores, k, OFFSETS, Plan.uniform(OFFSETS), eps=0.5)
    assert bool((mask[:21] == 1).all())
    (grad,) = torch.autograd.grad(mask.square().sum(), scores)
    assert not grad[:21].any()
    assert bool(torch.isfinite(grad).all())
    assert bool(grad[21:].any())
    # and the segment can be reopened
    mask, _ = proximal_step(draw(), K, OFFSETS, plan, eps=0.5)
    assert_close(segment_sum(mask, OFFSETS), K)


def test_the_plan_is_a_constant() -> None:
    scores = draw().float().requires_grad_()
    mask, after = proximal_step(scores, K, OFFSETS, Plan.uniform(OFFSETS), eps=0.5)
    assert (mask.dtype, mask.requires_grad) == (torch.float32, True)
    assert not after.log_odds.requires_grad
    assert not after.log_scale.requires_grad


def test_a_long_training_does_not_overflow() -> None:
    mask = steps(draw().float(), 300, eps=1e-3)
    assert_close(segment_sum(mask, OFFSETS), K.float(), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("eps", [0.0, -1.0, math.nan, math.inf])
def test_a_weight_of_the_entropy_that_is_none_is_named(eps):
    scores, k, offsets = torch.rand(4), torch.tensor([2.0]), torch.tensor([0, 4])
    for call in (
        lambda: transport_mask(scores, k, offsets, eps=eps),
        lambda: sinkhorn(scores, k, offsets, eps=eps, steps=1),
        lambda: proximal_step(scores, k, offsets, Plan.uniform(offsets), eps=eps),
    ):
        with pytest.raises(ValueError, match="eps: wanted a finite number above 0"):
            call()
    with pytest.raises(ValueError, match="steps: wanted at least 1, got 0"):
        sinkhorn(scores, k, offsets, eps=0.1, steps=0)
    with pytest.raises(ValueError, match="plan: it is of other segments"):
        proximal_step(scores, k, offsets, Plan.uniform(torch.tensor([0, 5])), eps=0.1)
