"""What the CPU backend answers itself, what it leaves to the reference, and its layouts."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from dsa_core.kernels import cpu, reference, segment_ids, segment_sum, soft_topk
from dsa_core.kernels.layout import LARGEST, LONGEST, layout_of

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
    "k near 0": {"k": 0.4},
    "k near n": {"k": 3.6},
    "plateau": {"k": 2.0, "temperature": 1e-3},
    "long": {"k": 9.0, "scores": torch.linspace(0, 1, LONGEST + 1)},
}


@pytest.mark.parametrize("name", HARD)
def test_what_is_hard_is_left_to_the_reference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = {"temperature": 1.0, "frozen": None, "scores": FEW} | HARD[name]
    calls = []
    plain = reference.soft_topk

    def count(*args: Any, **named: Any) -> Tensor:
        calls.append(1)
        return plain(*args, **named)

    monkeypatch.setattr(reference, "soft_topk", count)
    offsets = torch.tensor([0, len(case["scores"])])
    p = soft_topk(
        case["scores"],
        torch.tensor([case["k"]]),
        offsets,
        temperature=case["temperature"],
        frozen=case["frozen"],
        backend="cpu",
    )
    assert calls == [1]
    assert_close(float(p.double().sum()), case["k"], rtol=1e-5, atol=0.0)


def test_an_answer_that_misses_k_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, k = draw(1), 0.5 * torch.tensor(WIDTHS, dtype=torch.float64)
    t = torch.full((len(WIDTHS),), 0.1, dtype=torch.float64)
    wanted = reference.soft_topk(scores, k, OFFSETS, temperature=t)
    monkeypatch.setattr(cpu, "_find_root", lambda problem, _: (problem.lower + problem.upper) / 2)
    assert_close(cpu.soft_topk(scores, k, OFFSETS, temperature=t), wanted, rtol=0.0, atol=0.0)


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


def test_layout_places_every_score_once() -> None:
    layout = layout_of(OFFSETS)
    assert layout is not None
    flat = np.append(np.arange(sum(WIDTHS)), -1)
    ended = flat[layout.rows].ravel()[layout.ended]
    assert (ended[ended >= 0] == np.arange(sum(WIDTHS))).all()
    marks = layout.ended_starts + layout.sizes.astype(int)
    assert (ended[marks] == -1).all()
    assert (layout.ended_rank[marks] == layout.sizes).all()
    assert not layout.ids.flags.writeable  # it is shared between calls


@pytest.mark.parametrize(
    "offsets",
    [[0], [1, 2], [0, 2, 2], [0, 3, 2], [0, LONGEST + 1], [0, LARGEST + 1], [*range(4000), 8000]],
)
def test_no_layout_for_what_is_wrong_or_too_large(offsets: list[int]) -> None:
    assert layout_of(torch.tensor(offsets)) is None
