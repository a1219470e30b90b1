"""What every group keeps where all scores compete: the budget, the gradient, the slow twins."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dsa_core.budget import QuadraticForm
from dsa_core.kernels import segments
from dsa_core.methods import dtp_counts
from dsa_core.methods.dtp_counts import competing_counts, keep_most, ranks

OFFSETS = torch.tensor([0, 3, 8, 10])  # groups of 3, 5 and 2
SIZES = OFFSETS.diff()
LOW = torch.full((3,), 1e-6, dtype=torch.float64)


def form() -> QuadraticForm:
    """F(1) = 1: a constant of 0.1, and unequal prices."""
    Q = torch.tensor([[0.2, 0.2, 0.0], [0.2, 0.05, 0.1], [0.0, 0.1, 0.0]], dtype=torch.float64)
    return QuadraticForm(Q, torch.tensor([0.03, 0.02, 0.0], dtype=torch.float64), 0.1)


def scores(seed: int = 0) -> Tensor:
    return torch.rand(10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def count(s: Tensor, budget: float, eps: float = 0.3, floors: Tensor = LOW) -> Tensor:
    return competing_counts(s, OFFSETS, form(), budget, eps=eps, floors=floors)


def slow(s: Tensor, budget: float, eps: float) -> Tensor:
    """Bisect the threshold in plain Python."""
    low, high = -200.0, 200.0
    for _ in range(200):
        t = (low + high) / 2
        m = [1 / (1 + math.exp(-((2 * x - 1) / eps + t))) for x in s.tolist()]
        kept = [sum(m[:3]), sum(m[3:8]), sum(m[8:])]
        alpha = torch.tensor(kept, dtype=torch.float64) / SIZES
        low, high = (low, t) if float(form()(alpha)) > budget else (t, high)
    return torch.tensor(kept, dtype=torch.float64)


@given(
    seed=st.integers(0, 999),
    budget=st.floats(0.12, 0.999),
    eps=st.sampled_from([0.01, 0.1, 0.5, 5.0]),
)
def test_the_budget_is_hit_exactly(seed, budget, eps):
    k = count(scores(seed), budget, eps)
    assert bool(((k > 0) & (k <= SIZES)).all())
    assert float(form()(k / SIZES)) == pytest.approx(budget, abs=1e-12)


@pytest.mark.parametrize("eps", [0.05, 0.3, 2.0])
def test_the_slow_twin_agrees(eps):
    for budget in (0.2, 0.5, 0.9):
        torch.testing.assert_close(count(scores(), budget, eps), slow(scores(), budget, eps))


def test_samples_and_pieces_change_nothing(monkeypatch):
    answers = []
    for sample in (100, 4):
        monkeypatch.setattr(dtp_counts, "SAMPLE", sample)
        monkeypatch.setattr(segments, "PIECE", sample - 1)
        s = scores().requires_grad_()
        k = count(s, 0.4)
        answers.append((k, *torch.autograd.grad(k[0] - 2 * k[2], s)))
    for few, all_at_once in zip(*answers, strict=True):
        torch.testing.assert_close(few, all_at_once, rtol=1e-12, atol=1e-14)


def test_gradient_by_finite_differences():
    for budget, eps in ((0.3, 0.3), (0.8, 0.05), (0.5, 3.0)):
        s = scores().requires_grad_()
        assert torch.autograd.gradcheck(lambda s, b=budget, e=eps: count(s, b, e), s)


def test_a_whole_budget_keeps_all_and_floors_hold():
    assert torch.equal(count(scores(), 1.0), SIZES.double())
    floors = torch.tensor([0.9, 1e-6, 1e-6], dtype=torch.float64)
    s = scores().requires_grad_()
    k = count(s, 0.4, floors=floors)
    assert float(k[0].detach()) == pytest.approx(2.7, rel=1e-12)
    assert float(form()(k / SIZES)) == pytest.approx(0.4, abs=1e-12)
    (found,) = torch.autograd.grad(k.sum(), s)
    assert bool((found[:3] == 0).all())
    assert bool((found[3:] != 0).any())


def test_ranks_by_hand():
    b = torch.tensor([5.0, 1.0, 3.0, 2.0, 2.0, 9.0, 0.0, 4.0, 1.0, 1.0])
    wanted = [5 / 6, 1 / 6, 3 / 6, 0.5, 0.3, 0.9, 0.1, 0.7, 0.75, 0.25]
    torch.testing.assert_close(ranks(b, OFFSETS), torch.tensor(wanted))


@given(seed=st.integers(0, 999))
def test_keep_most_agrees_with_sorting_each_group(seed):
    generator = torch.Generator().manual_seed(seed)
    b = torch.randint(0, 4, (10,), generator=generator).float()
    counts = torch.stack([torch.randint(1, int(n) + 1, (), generator=generator) for n in SIZES])
    keep = keep_most(b, counts, OFFSETS)
    for g, count_g in enumerate(counts.tolist()):
        part = b[OFFSETS[g] : OFFSETS[g + 1]].tolist()
        best = sorted(range(len(part)), key=lambda i: (-part[i], i))[:count_g]
        assert sorted(best) == keep[OFFSETS[g] : OFFSETS[g + 1]].nonzero()[:, 0].tolist()
