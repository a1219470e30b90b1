"""What the compiled loops answer themselves, and what they leave to the reference."""

from typing import Any

import numba
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from dsa_core.kernels import cpu, reference, segment_ids, segment_sum, soft_topk

WIDTHS = [1, 2, 16, 16, 33, 64, 64]
OFFSETS = torch.tensor([0, *WIDTHS]).cumsum(0)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No help from the reference."""

    def refuse(*_: Any, **__: Any) -> Tensor:
        raise AssertionError("left to the reference")

    monkeypatch.setattr(reference, "soft_topk", refuse)


def draw(seed: int, ties: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(sum(WIDTHS), generator=generator, dtype=torch.float64).log()
    return torch.round(4 * scores) / 4 if ties else scores


@pytest.mark.parametrize("temperature", [1e3, 1.0, 0.2, 0.05])
@pytest.mark.parametrize("ratio", [0.5, 0.73, 1.0])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.usefixtures("alone")
def test_networks_are_answered_without_the_reference(
    temperature: float, *, ratio: float, ties: bool
) -> None:
    scores = draw(0, ties).requires_grad_()
    k = (ratio * torch.tensor(WIDTHS, dtype=torch.float64)).clamp_min(0.5)
    k[::2] = torch.tensor(WIDTHS[::2], dtype=torch.float64)  # some keep everything
    k.requires_grad_()
    weight = torch.linspace(-1, 1, len(scores), dtype=torch.float64)
    answers = []
    t = torch.full((len(WIDTHS),), temperature, dtype=torch.float64)
    for solve in (cpu.soft_topk, reference._SoftTopK.apply):
        if solve is cpu.soft_topk:
            p = cpu.soft_topk(scores, k, OFFSETS, temperature=t)
        else:
            p = solve(scores, k, OFFSETS, t, torch.zeros(len(scores), dtype=torch.bool))
        answers.append([p, *torch.autograd.grad(p @ weight, (scores, k))])
    for got, wanted in zip(*answers, strict=True):
        assert_close(got, wanted, rtol=1e-9, atol=1e-11)
    everything = (k == torch.tensor(WIDTHS))[segment_ids(OFFSETS)]
    assert bool((answers[0][0][everything] == 1).all())
    assert not answers[0][1][everything].any()


@pytest.mark.usefixtures("alone")
def test_sharp_scores_are_answered_without_the_reference() -> None:
    # thousands of temperatures apart, where exp overflows; k is no whole number, so w does not die
    scores, k = draw(3), 0.73 * torch.tensor(WIDTHS, dtype=torch.float64)
    k[0] = 0.5  # of one
    p = soft_topk(scores, k, OFFSETS, temperature=1e-3)
    assert_close(segment_sum(p, OFFSETS), k, rtol=1e-10, atol=0.0)


FEW = torch.tensor([3.0, 2.0, 1.0, 0.0])
HARD: dict[str, dict[str, Any]] = {
    "frozen": {"k": 2.5, "frozen": torch.tensor([True, False, False, False])},
    "all but one frozen": {"k": 3.5, "frozen": torch.tensor([True, False, True, True])},
    "all frozen": {"k": 4.0, "frozen": torch.ones(4, dtype=torch.bool)},
    "k near 0": {"k": 1e-6},
    "k near n": {"k": 4 - 1e-5},
    "one score": {"k": 0.3, "scores": FEW[:1]},
    "long": {"k": 9.0, "scores": torch.linspace(0, 1, 100_000)},
    "long and equal": {"k": 700.5, "scores": torch.zeros(5000)},
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.usefixtures("alone")
def test_what_is_hard_is_answered_all_the_same(name: str) -> None:
    case = {"frozen": None, "scores": FEW} | HARD[name]
    scores = case["scores"].double().requires_grad_()
    k = torch.tensor([case["k"]], dtype=torch.float64, requires_grad=True)
    n, t = len(scores), torch.ones(1, dtype=torch.float64)
    offsets, frozen = torch.tensor([0, n]), case["frozen"]
    weight = torch.linspace(-1, 1, n, dtype=torch.float64)
    none = torch.zeros(n, dtype=torch.bool)
    answers = [
        cpu.soft_topk(scores, k, offsets, temperature=t, frozen=frozen),
        reference._SoftTopK.apply(scores, k, offsets, t, none if frozen is None else frozen),
    ]
    for got, wanted in zip(
        *([p, *torch.autograd.grad(p @ weight, (scores, k))] for p in answers), strict=True
    ):
        assert_close(got, wanted, rtol=1e-9, atol=1e-12)


def test_a_plateau_is_left_to_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    plain = reference.soft_topk

    def count(*args: Any, **named: Any) -> Tensor:
        calls.append(1)
        return plain(*args, **named)

    monkeypatch.setattr(reference, "soft_topk", count)
    p = soft_topk(FEW, torch.tensor([2.0]), torch.tensor([0, 4]), temperature=1e-3, backend="cpu")
    assert calls == [1]
    assert_close(p, torch.tensor([1.0, 1.0, 0.0, 0.0]))


def test_an_answer_that_misses_k_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, k = draw(1), 0.5 * torch.tensor(WIDTHS, dtype=torch.float64)
    t = torch.full((len(WIDTHS),), 0.1, dtype=torch.float64)
    wanted = reference.soft_topk(scores, k, OFFSETS, temperature=t)
    assert not torch.equal(cpu.soft_topk(scores, k, OFFSETS, temperature=t), wanted)  # last bits
    monkeypatch.setitem(cpu._NEARLY, torch.float64, 1e3)  # the first step is taken for the last
    assert_close(cpu.soft_topk(scores, k, OFFSETS, temperature=t), wanted, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_strange_memory_is_read_in_order(dtype: torch.dtype) -> None:
    plain = draw(4).to(dtype)
    wide = torch.stack([plain, -plain], dim=1)[:, 0].requires_grad_()
    k = torch.tensor(2.0, dtype=dtype).expand(2).clone()[::1]
    t = torch.tensor(0.5, dtype=torch.float64).expand(2)
    offsets = torch.tensor([0, 0, 50, 0, len(plain), 0])[::2]
    p = cpu.soft_topk(wide, k, offsets, temperature=t)
    (grad,) = torch.autograd.grad(p[0], wide, torch.ones(()).to(dtype).expand(()))
    same = plain.clone().requires_grad_()
    q = reference.soft_topk(same, k, offsets.contiguous(), temperature=t.contiguous())
    (wanted,) = torch.autograd.grad(q[0], same)
    assert_close(p, q)
    assert_close(grad, wanted)


def test_loops_are_compiled_even_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = numba.njit

    def njit(*, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return plain(**options)

    monkeypatch.setattr(numba, "njit", njit)
    assert cpu.loops().compiled(lambda x: x + 1)(1) == 2


def test_a_plateau_of_hundreds_of_temperatures_is_shared_between_its_edges() -> None:
    scores = torch.tensor([590.0, 0.0, -500.0, -600.0], dtype=torch.float64)
    k = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    p = soft_topk(scores, k, torch.tensor([0, 4]), temperature=1.0, backend="cpu")
    shares = torch.stack([torch.autograd.grad(q, k, retain_graph=True)[0] for q in p])
    assert_close(shares[:, 0], torch.tensor([0.5, 0.5, 0, 0], dtype=torch.float64))


@pytest.mark.usefixtures("alone")
def test_offsets_changed_in_place_are_other_offsets() -> None:
    scores, k, offsets = draw(2)[:8], torch.tensor([1.5, 2.5]), torch.tensor([0, 3, 8])
    soft_topk(scores, k, offsets, temperature=1.0)
    offsets[1] = 4
    p = soft_topk(scores, k, offsets, temperature=1.0)
    assert_close(p[:4].sum(), torch.tensor(1.5, dtype=torch.float64))
