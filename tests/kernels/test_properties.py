"""What must hold for every input of soft_topk (hypothesis)."""

from collections.abc import Callable
from typing import NamedTuple

import oracle
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from dsa_core.kernels import segment_ids, segment_sum

Op = Callable[..., Tensor]


class Case(NamedTuple):
    """Arguments of soft_topk in float64."""

    scores: Tensor
    k: Tensor
    offsets: Tensor
    temperature: float
    generator: torch.Generator

    def solve(self, op: Op, **changes: object) -> Tensor:
        new = self._replace(**changes)
        return op(new.scores, new.k, new.offsets, temperature=new.temperature)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Ragged segments, smooth or tied scores, k from 1e-6 to n, temperatures 1e-3 to 1e3."""
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    n = torch.tensor(sizes)
    scores = 3 * torch.randn(int(n.sum()), generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        scores = torch.round(scores)
    ratio = st.floats(1e-6, 1.0) | st.sampled_from([1e-6, 0.5, 1 - 1e-6, 1.0])
    k = torch.tensor([draw(ratio) for _ in sizes], dtype=torch.float64) * n
    if draw(st.booleans()):
        k = k.ceil()
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), n.cumsum(0)])
    return Case(scores, k, offsets, 10 ** draw(st.floats(-3, 3)), generator)


@given(case=cases())
def test_probabilities_are_those_of_scipy_and_sum_to_k(op: Op, case: Case) -> None:
    p = case.solve(op)
    assert bool(((p >= 0) & (p <= 1)).all())
    assert_close(segment_sum(p, case.offsets), case.k, rtol=1e-10, atol=0.0)
    wanted = oracle.keep_probs(case.scores, case.k, case.offsets, case.temperature)
    assert_close(p, wanted, rtol=0.0, atol=1e-11)  # brentq's t is off by 1e-15 of 10, over T
    single = case.solve(op, scores=case.scores.float())
    assert single.dtype == torch.float32
    assert_close(segment_sum(single.double(), case.offsets), case.k, rtol=1e-5, atol=0.0)


@given(case=cases())
def test_gradients_are_bounded_and_the_sum_follows_k_alone(op: Op, case: Case) -> None:
    scores, k, unit = case.scores.requires_grad_(), case.k.requires_grad_(), case.temperature
    p = case.solve(op, scores=scores, k=k)
    weight = torch.randn(len(p), generator=case.generator, dtype=torch.float64).clamp(-1, 1)
    grad_scores, grad_k = torch.autograd.grad(p @ weight, (scores, k), retain_graph=True)
    # dp/dk are shares in [0, 1]; |T dp/ds| <= w <= 1/4
    assert bool((grad_k.abs() <= 1 + 1e-12).all())
    assert bool((unit * grad_scores.abs() <= 0.5 + 1e-12).all())
    # d sum p / dk = 1 and d sum p / ds = 0: each entry is w (1 - sum of shares) / T
    grad_scores, grad_k = torch.autograd.grad(p.sum(), (scores, k))
    assert_close(grad_k, torch.ones_like(k), rtol=1e-12, atol=0.0)
    assert_close(unit * grad_scores, torch.zeros_like(scores), rtol=0.0, atol=1e-12)


@given(case=cases(), ratio=st.floats(0.1, 0.999))
def test_p_rises_with_score_and_with_k(op: Op, case: Case, ratio: float) -> None:
    p, fewer = case.solve(op), case.solve(op, k=ratio * case.k)
    for a, b in zip(case.offsets[:-1], case.offsets[1:], strict=True):
        order = case.scores[a:b].argsort()
        # torch rounds the last few of a vector in scalar code: ties may differ by two ulps
        assert bool((p[a:b][order].diff() >= -3e-16).all())
    assert bool((p - fewer >= -1e-14).all())
    assert bool((segment_sum(p - fewer, case.offsets) > 0).all())


@given(case=cases())
def test_permuting_channels_permutes_p(op: Op, case: Case) -> None:
    shuffle = torch.randperm(len(case.scores), generator=case.generator)
    shuffle = shuffle[segment_ids(case.offsets)[shuffle].argsort(stable=True)]
    p = case.solve(op)
    assert_close(case.solve(op, scores=case.scores[shuffle]), p[shuffle], rtol=1e-9, atol=1e-13)


@given(case=cases())
def test_segments_do_not_see_one_another(op: Op, case: Case) -> None:
    together, alone = case.solve(op), []
    for g, (a, b) in enumerate(zip(case.offsets[:-1], case.offsets[1:], strict=True)):
        one = torch.tensor([0, int(b - a)])
        alone.append(case.solve(op, scores=case.scores[a:b], k=case.k[g : g + 1], offsets=one))
    assert_close(together, torch.cat(alone), rtol=1e-13, atol=0.0)
