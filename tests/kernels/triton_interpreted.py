"""The fused kernels against plain torch, by Triton's interpreter.

Run by `test_triton.py` in a process of its own: TRITON_INTERPRET must be set before the kernels are
imported. On a GPU the same bodies run compiled. Not collected by itself.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from dsa_core.kernels import fast, resolve_backend, segment_sum, soft_topk
from dsa_core.kernels import triton as fused

Tol = Callable[[torch.dtype], dict[str, float]]
DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
RAGGED = [1, 7, 63, 64, 100]
COUNTS: dict[str, Callable[[Tensor], Tensor]] = {
    "tiny": lambda n: 1e-6 * torch.ones_like(n),
    "third": lambda n: n / 3,
    "whole": lambda n: (n / 2).ceil(),
    "nearly all": lambda n: n - 1e-3,
    "all": lambda n: n,
}


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """torch.empty holds NaN: what a kernel forgets to write is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def draw(sizes: list[int], *, ties: bool = False, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(len(sizes))
    scores = torch.randn(sum(sizes), generator=generator)
    return (torch.round(5 * scores) / 5 if ties else scores).to(dtype).to(DEVICE)


def edges(sizes: list[int]) -> Tensor:
    return torch.tensor([0, *sizes], device=DEVICE).cumsum(0)


def compare(
    scores: Tensor,
    k: Tensor,
    offsets: Tensor,
    temperature: float | Tensor,
    *,
    tolerance: dict[str, float],
) -> Tensor:
    """p and both gradients, Triton's beside torch's in float64; returns Triton's p."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(len(scores), generator=generator).to(DEVICE)
    answers = []
    for backend, dtype in (("triton", scores.dtype), ("torch", torch.float64)):
        s = scores.detach().to(dtype).requires_grad_()
        count = k.detach().clone().requires_grad_()
        p = soft_topk(s, count, offsets, temperature=temperature, backend=backend)
        assert p.dtype == dtype
        grad_s, grad_k = torch.autograd.grad(p, (s, count), weight.to(dtype))
        assert grad_s.dtype == dtype
        assert grad_k.dtype == k.dtype
        unit = torch.as_tensor(temperature, dtype=torch.float64, device=DEVICE)
        unit = unit if unit.dim() == 0 else unit.repeat_interleave(offsets.diff())
        answers.append([p.detach(), (unit * grad_s.double()).to(scores.dtype), grad_k])
    for got, wanted in zip(*answers, strict=True):
        assert_close(got, wanted.to(got.dtype), **tolerance)
    return answers[0][0]


@pytest.mark.parametrize(
    ("temperature", "ties"), [(1e-3, False), (1e-3, True), (1.0, False), (1e3, True)]
)
@pytest.mark.parametrize("count", COUNTS)
def test_ragged(tolerance: Tol, temperature: float, count: str, *, ties: bool) -> None:
    scores, offsets = draw(RAGGED, ties=ties), edges(RAGGED)
    k = COUNTS[count](offsets.diff().float())
    p = compare(scores, k, offsets, temperature, tolerance=tolerance(torch.float32))
    error = (segment_sum(p.double(), offsets) - k.double()).abs() / k.double()
    assert float(error.max()) < 1e-5
    if count == "all":
        assert bool((p == 1).all())


@pytest.mark.parametrize("n", [2048, 5000])  # 5000: three blocks, the last one not full
@pytest.mark.parametrize("ratio", [0.01, 0.5])
def test_long(tolerance: Tol, n: int, ratio: float) -> None:
    sizes = [n, 1]
    k = torch.tensor([ratio * n, 0.25], device=DEVICE)
    p = compare(draw(sizes), k, edges(sizes), 0.1, tolerance=tolerance(torch.float32))
    assert_close(segment_sum(p.double(), edges(sizes)), k.double(), rtol=1e-5, atol=0.0)


def test_a_temperature_per_segment(tolerance: Tol) -> None:
    sizes = [3, 40, 1, 5]
    k = torch.tensor([1.5, 21.0, 0.3, 5.0], device=DEVICE)
    temperature = torch.tensor([0.01, 0.2, 5.0, 1.0], dtype=torch.float64, device=DEVICE)
    compare(draw(sizes), k, edges(sizes), temperature, tolerance=tolerance(torch.float32))


@pytest.mark.parametrize("count", ["third", "all"])
def test_bfloat16(tolerance: Tol, count: str) -> None:
    scores, offsets = draw(RAGGED, dtype=torch.bfloat16), edges(RAGGED)
    k = COUNTS[count](offsets.diff().double())  # and k of another dtype
    rounded = {"rtol": 8e-3, "atol": 1e-4}  # two roundings of 8 bits: upstream and answer
    compare(scores, k, offsets, 0.3, tolerance=tolerance(torch.bfloat16))
    p = soft_topk(scores, k, offsets, temperature=0.3, backend="triton")
    wanted = soft_topk(scores.double(), k, offsets, temperature=0.3, backend="torch")
    assert_close(p, wanted.bfloat16(), **rounded)


def test_large_scores_lose_no_digits(tolerance: Tol) -> None:
    scores = torch.tensor([0.25, 0.5, 0.75, 2.0, -1.0], device=DEVICE)
    k, offsets = torch.tensor([2.3], device=DEVICE), torch.tensor([0, 5], device=DEVICE)
    p = soft_topk(scores, k, offsets, temperature=0.2, backend="triton")
    moved = soft_topk(scores + 2.0**20, k, offsets, temperature=0.2, backend="triton")
    assert_close(moved, p, **tolerance(torch.float32))


@pytest.mark.parametrize("k", [1e-3, 1.0, 1.7, 2.999])
@pytest.mark.parametrize(("far", "check"), [(3e38, True), (1e5, False)])  # to torch; on its own
def test_far_apart_scores_do_not_overflow(k: float, far: float, *, check: bool) -> None:
    scores = torch.tensor([far, 0.0, -far], device=DEVICE, requires_grad=True)
    count = torch.tensor([k], device=DEVICE, requires_grad=True)
    offsets = torch.tensor([0, 3], device=DEVICE)
    p = soft_topk(scores, count, offsets, temperature=1e-3, backend="triton", check=check)
    assert_close(p.cpu(), (torch.tensor([k]) - torch.arange(3)).clamp(0, 1), rtol=1e-5, atol=1e-6)
    p.square().sum().backward()
    assert bool(torch.isfinite(scores.grad).all())
    assert bool(torch.isfinite(count.grad).all())


def test_whole_count_on_a_plateau_shares_between_its_two_edges() -> None:
    scores = torch.tensor([3.0, 2.0, 1.0, 0.0], device=DEVICE)
    k = torch.tensor([2.0], device=DEVICE, requires_grad=True)
    offsets, weight = torch.tensor([0, 4], device=DEVICE), torch.tensor([0.0, 3.0, 5.0, 0.0])
    p = soft_topk(scores, k, offsets, temperature=1e-5, backend="triton")
    (grad,) = torch.autograd.grad(p, k, weight.to(DEVICE))
    assert_close(grad.cpu(), torch.tensor([4.0]), rtol=1e-4, atol=0.0)  # half of 3, half of 5


def arguments(sizes: list[int]) -> tuple[Any, ...]:
    offsets = edges(sizes)
    k = (0.4 * offsets.diff()).float().requires_grad_()
    t = torch.full((len(sizes),), 0.5, dtype=torch.float64, device=DEVICE)
    return draw(sizes).requires_grad_(), k, offsets, t


def test_operators_are_registered_as_they_behave() -> None:
    scores, k, offsets, t = arguments([9, 4])
    torch.library.opcheck(fused.soft_topk_op, (scores, k, offsets, t))
    p, threshold = fused.soft_topk_op(scores, k, offsets, t)
    inputs = (torch.ones_like(p), scores, k, offsets, t, threshold)
    torch.library.opcheck(fused.soft_topk_backward_op, [x.detach() for x in inputs])


def test_composes_with_compile() -> None:
    scores, k, offsets, _ = arguments([9, 4])

    def loss(scores: Tensor, k: Tensor) -> Tensor:
        p = soft_topk(scores.exp(), k, offsets, temperature=0.5, backend="triton", check=False)
        return (p.square() * torch.arange(13, device=DEVICE)).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    wanted = torch.autograd.grad(loss(scores, k), (scores, k))
    got = torch.autograd.grad(compiled(scores, k), (scores, k))
    assert_close(got, wanted, rtol=1e-6, atol=1e-7)


def test_differentiable_once_only() -> None:
    scores, k, offsets, _ = arguments([9, 4])
    p = soft_topk(scores, k, offsets, temperature=1.0, backend="triton")
    (grad,) = torch.autograd.grad(p.square().sum(), scores, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(grad.sum(), scores)


def test_long_segments_go_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, k, offsets, _ = arguments([9, 4])
    monkeypatch.setattr(fused, "LONGEST", 8)
    p = soft_topk(scores, k, offsets, temperature=1.0, backend="triton")
    assert torch.equal(p, soft_topk(scores, k, offsets, temperature=1.0, backend="torch"))
    monkeypatch.setattr(fused, "LONGEST", 9)
    monkeypatch.setattr(fast, "soft_topk", None)  # not asked
    assert_close(soft_topk(scores, k, offsets, temperature=1.0, backend="triton"), p)


def test_auto_is_triton_on_a_gpu() -> None:
    like = torch.zeros(1, device=DEVICE)
    assert resolve_backend("triton", like=like) == "triton"
    assert resolve_backend("auto", like=like) == ("torch" if DEVICE == "cpu" else "triton")
