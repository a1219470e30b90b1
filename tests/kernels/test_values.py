"""Values of soft_topk: closed forms, SciPy per segment, twins, limits, and the solver's report."""

from collections.abc import Callable

import oracle
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from dsa_core.kernels import (
    fast,
    reference,
    roots,
    segment_ids,
    segment_sum,
    solve_threshold,
)

Op = Callable[..., Tensor]
Tol = Callable[[torch.dtype], dict[str, float]]
SIZES = [1, 7, 63, 64, 100, 2048]
DTYPES = [torch.float32, torch.float64]
RESIDUAL = {torch.float32: 1e-5, torch.float64: 1e-10}
COUNTS = {  # expected counts from sizes: near 0, fractional, whole, half, near n
    "tiny": lambda n: 1e-6 * torch.ones_like(n),
    "third": lambda n: n / 3,
    "whole": lambda n: (n / 2).ceil(),
    "half": lambda n: (n / 2).floor() + 0.5,
    "nearly all": lambda n: n - 1e-4,
    "all": lambda n: n,
}


def ragged(dtype: torch.dtype, seed: int = 0, ties: bool = False) -> tuple[Tensor, Tensor]:
    """Random scores over SIZES, and offsets; with ties, on a grid of about 30 values."""
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *SIZES]).cumsum(0)
    scores = torch.randn(int(offsets[-1]), generator=generator, dtype=torch.float64)
    return (torch.round(5 * scores) / 5 if ties else scores).to(dtype), offsets


# Backwards: choose scores, t and T, and ask for k = sum p. The root is unique, so it must be t.
THRESHOLDS: dict[str, tuple[list[float], float, float]] = {
    "two channels, k = 1": ([5.0, 0.0], 2.5, 0.1),
    "two channels, nearly uniform": ([2.0, 0.0], 1.0, 1000.0),
    "equal scores": ([-3.7] * 7, -3.7 + 1e-3, 1e-3),
    "equal scores, nearly all kept": ([-3.7] * 64, -15.0, 1.0),
    "one channel": ([-3.7], -3.0, 2.0),
    "mirrored scores, k = n / 2": ([0.1, 0.5, 2.5, 2.5, -0.1, -0.5, -2.5, -2.5], 0.0, 0.5),
    "ties": ([0.0, 1.0, 4.0, 4.0, -2.0], 1.3, 0.7),
    "far above": ([0.0, 1.0, 4.0, 4.0, -2.0], 30.0, 1.0),
    "sharp": ([0.2, 0.1, 0.7], 0.15, 0.01),
}


@pytest.mark.parametrize("name", THRESHOLDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_closed_form(op: Op, tolerance: Tol, name: str, dtype: torch.dtype) -> None:
    numbers, t, temperature = THRESHOLDS[name]
    scores, offsets = torch.tensor(numbers, dtype=torch.float64), torch.tensor([0, len(numbers)])
    wanted = torch.sigmoid((scores - t) / temperature)
    k = wanted.sum()[None]
    p = op(scores.to(dtype), k, offsets, temperature=temperature)
    assert p.dtype == dtype
    # float32 scores are themselves rounded: 0.7 / 0.01 is off by 70 roundings
    near = tolerance(dtype) if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    assert_close(p, wanted.to(dtype), **near)
    solved = solve_threshold(scores, k, offsets, temperature=temperature)
    p = torch.sigmoid((scores - solved.root) / temperature)
    assert_close(p, wanted, **tolerance(torch.float64))
    assert solved.converged.tolist() == [True]


@pytest.mark.parametrize("temperature", [1e-3, 0.1, 1.0, 1e3])
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ties", [False, True])
def test_equals_scipy(
    op: Op, tolerance: Tol, *, temperature: float, count: str, dtype: torch.dtype, ties: bool
) -> None:
    scores, offsets = ragged(dtype, ties=ties)
    k = COUNTS[count](offsets.diff().to(dtype))
    p = op(scores, k, offsets, temperature=temperature)
    wanted = oracle.keep_probs(scores, k, offsets, temperature)
    error = (segment_sum(p.double(), offsets) - k.double()).abs() / k.double()
    assert float(error.max()) < RESIDUAL[dtype]
    # brentq finds t to 1e-15 of its size; a threshold near 4 at T = 1e-3 shifts p by 1e-11
    assert_close(p, wanted.to(dtype), **tolerance(dtype))


FEW = torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=torch.float64)
HARD: dict[str, tuple[Tensor, float]] = {  # scores, k
    "few": (FEW, 2.5),
    "all": (FEW, 4.0),
    "k near 0": (FEW, 1e-6),
    "k near n": (FEW, 4 - 1e-5),
    "one score": (FEW[:1], 0.3),
    "long": (torch.linspace(0, 1, 100_000, dtype=torch.float64), 9.0),
    "long, most kept": (torch.linspace(0, 50, 20_000, dtype=torch.float64), 19_999.3),
    "long, all kept": (torch.linspace(0, 1, 20_000, dtype=torch.float64), 20_000.0),
    "long, all decided": (torch.arange(20_000, dtype=torch.float64) * 1e4, 700.0),
    "long and far out": (torch.linspace(0, 1, 20_000, dtype=torch.float64) + 2.0**40, 3e3),
    "long and equal": (torch.zeros(5000, dtype=torch.float64), 700.5),
    "every second one": (torch.linspace(0, 9, 40, dtype=torch.float64)[::2], 7.3),
}


@pytest.mark.parametrize("name", HARD)
def test_the_twins_agree_on_values_and_gradients(name: str) -> None:
    s, kept = HARD[name]
    k = torch.tensor([kept], dtype=torch.float64, requires_grad=True)
    scores, offsets = s.detach().requires_grad_(), torch.tensor([0, 7, len(s)])[::2]
    weight = torch.linspace(-1, 1, len(s), dtype=torch.float64)
    t = torch.ones(1, dtype=torch.float64)
    answers = []
    for twin in (fast, reference):
        p = twin.soft_topk(scores, k, offsets, temperature=t)
        answers.append([p, *torch.autograd.grad(p @ weight, (scores, k))])
    for got, wanted in zip(*answers, strict=True):
        assert_close(got, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("k", [1e-6, 1e-12, 1e-30])
def test_tiny_count_keeps_its_relative_accuracy(op: Op, k: float) -> None:
    # k -> 0: sigmoid(x) = exp(x), so p = k softmax(s / T)
    scores, offsets = ragged(torch.float64)
    p = op(scores, torch.full((len(SIZES),), k, dtype=torch.float64), offsets, temperature=0.5)
    parts = scores.split(offsets.diff().tolist())
    wanted = k * torch.cat([torch.softmax(s / 0.5, 0) for s in parts])
    assert_close(p, wanted, rtol=max(2 * k, 1e-11), atol=0.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_everything_kept_is_exactly_one(op: Op, dtype: torch.dtype) -> None:
    scores, offsets = ragged(dtype)
    k = offsets.diff().to(dtype)
    assert torch.equal(op(scores, k, offsets, temperature=0.1), torch.ones_like(scores))
    k[3] /= 2  # one segment of six has a root
    p = op(scores, k, offsets, temperature=0.1)
    inside = segment_ids(offsets) == 3
    assert bool((p[~inside] == 1).all())
    assert bool((p[inside] < 1).any())


@pytest.mark.parametrize(("dtype", "shift"), [(torch.float32, 2.0**20), (torch.float64, 2.0**40)])
def test_large_scores_lose_no_digits(op: Op, dtype: torch.dtype, shift: float) -> None:
    # multiples of 1/4 are exact at that size: only the operator could lose digits
    scores = torch.tensor([0.25, 0.5, 0.75, 2.0, -1.0], dtype=dtype)
    k, offsets = torch.tensor([2.3], dtype=dtype), torch.tensor([0, 5])
    p = op(scores, k, offsets, temperature=0.2)
    assert_close(op(scores + shift, k, offsets, temperature=0.2), p, rtol=0.0, atol=1e-15)


@pytest.mark.parametrize("temperature", [1e-3, 1e3])
@pytest.mark.parametrize("k", [1e-3, 1.0, 1.7, 2.0, 2.999])
def test_far_apart_scores_do_not_overflow(op: Op, temperature: float, k: float) -> None:
    scores = torch.tensor([3e38, 0.0, -3e38], requires_grad=True)
    count = torch.tensor([k], requires_grad=True)
    p = op(scores, count, torch.tensor([0, 3]), temperature=temperature)
    # far apart, the channels fill up one after the other
    wanted = (torch.tensor([k]) - torch.arange(3)).clamp(0, 1)
    assert_close(p, wanted)
    p.square().sum().backward()
    assert bool(torch.isfinite(scores.grad).all())
    assert bool(torch.isfinite(count.grad).all())


def test_root_of_two_channels_is_half_way_also_where_both_tails_underflow() -> None:
    scores, k = torch.tensor([5.0, 0.0, 5.0, 0.0]), torch.tensor([1.0, 2.0])
    solved = solve_threshold(scores, k, torch.tensor([0, 2, 4]), temperature=1e-5)
    wanted = torch.tensor([2.5, -torch.inf], dtype=torch.float64)  # all of the second are kept
    assert_close(solved.root, wanted, rtol=1e-9, atol=0.0)
    assert solved.converged.tolist() == [True, True]


@pytest.mark.parametrize("temperature", [1e-3, 0.03, 1.0, 1e3])
@pytest.mark.parametrize("ties", [False, True])
def test_solver_needs_few_iterations(temperature: float, ties: bool) -> None:
    scores, offsets = ragged(torch.float64, seed=4, ties=ties)
    for count in COUNTS.values():
        k = count(offsets.diff().double())
        solved = solve_threshold(scores, k, offsets, temperature=temperature)
        assert solved.iterations <= 12
        assert bool(solved.converged.all())
        assert float(solved.residual.max()) < 1e-10


def test_solver_needs_few_iterations_where_the_root_ends_the_bracket() -> None:
    # scores far apart: only one channel is undecided, p = frac(k), and t = s - T logit(frac(k))
    scores = 1e3 * torch.arange(9.0, dtype=torch.float64)
    for k in (1e-12, 0.3, 4.0 + 1e-9, 4.2, 5 - 1e-9, 8.8, 9 - 1e-12):
        count, offsets = torch.tensor([k], dtype=torch.float64), torch.tensor([0, 9])
        solved = solve_threshold(scores, count, offsets, temperature=1.0)
        undecided = scores[8 - int(k)]
        assert_close(solved.root[0], undecided - torch.logit(count[0] - int(k)))
        assert solved.iterations <= 12


def test_no_root_is_an_error_not_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roots, "MAX_EVALUATIONS", 1)
    scores, k = torch.tensor([0.0, 0.0, 0.0, 1.0, 5.0]), torch.tensor([1.0, 1.3])
    offsets, temperature = torch.tensor([0, 2, 5]), torch.ones(2).double()
    solved = fast.solve_threshold(scores, k, offsets, temperature=temperature)
    assert solved.converged.tolist() == [True, False]
    with pytest.raises(RuntimeError, match="no threshold found for segment 1: wanted"):
        fast.soft_topk(scores, k, offsets, temperature=temperature)


def test_segment_helpers() -> None:
    offsets = torch.tensor([0, 1, 3, 6])
    assert segment_ids(offsets).tolist() == [0, 1, 1, 2, 2, 2]
    x = torch.tensor([1.0, 2, 3, 4, 5, 6])
    assert segment_sum(x, offsets).tolist() == [1.0, 5.0, 15.0]
    assert segment_sum(torch.stack([x, -x], 1), offsets).tolist() == [[1, -1], [5, -5], [15, -15]]
    assert segment_sum(torch.ones(3), torch.tensor([0, 0, 3])).tolist() == [0.0, 3.0]
