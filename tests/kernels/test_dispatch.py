"""The public door: backends, and errors that name the argument and the segment."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from dsa_core.errors import ConfigError
from dsa_core.kernels import fast, resolve_backend, soft_topk, solve_threshold

GOOD: dict[str, Any] = {
    "scores": torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]),
    "k": torch.tensor([1.0, 1.5]),
    "offsets": torch.tensor([0, 2, 5]),
    "temperature": 1.0,
}


def call(*, backend: str = "auto", **changes: Any) -> Tensor:
    scores, k, offsets, temperature = (GOOD | changes).values()
    return soft_topk(scores, k, offsets, temperature=temperature, backend=backend)


NAN = torch.tensor([0.0, 1.0, 2.0, float("nan"), 4.0])
INF = torch.tensor([0.0, float("-inf"), 2.0, 3.0, 4.0])
BAD = [
    ({"scores": NAN}, r"scores: segment 1, position 1: .*finite.*got nan"),
    ({"scores": INF}, r"scores: segment 0, position 1: .*got -inf.*clamp the importance"),
    ({"scores": torch.zeros(5).half()}, r"scores: .* float32, float64 or bfloat16, got .*float16"),
    ({"scores": [0.0] * 5}, r"scores: wanted a tensor .*got list"),
    ({"scores": torch.zeros(5, 1)}, r"scores: wanted shape \(any length,\), got \(5, 1\)"),
    ({"k": torch.tensor([1.0, 0.0])}, r"k: segment 1 has 3 channels: .*\(0, 3\], got 0.0"),
    ({"k": torch.tensor([1.0, 3.5])}, r"k: segment 1 .*got 3.5.*clamp"),
    ({"k": torch.tensor([float("nan"), 1.0])}, r"k: segment 0 .*got nan"),
    ({"k": torch.tensor([1, 2])}, r"k: wanted a tensor of float32 or float64, got torch.int64"),
    ({"k": torch.tensor([1.0])}, r"k: wanted shape \(2,\), got \(1,\)"),
    ({"offsets": torch.tensor([0, 2, 4])}, r"offsets: wanted to run from 0 to n = 5, got 0 to 4"),
    ({"offsets": torch.tensor([1, 2, 5])}, r"offsets: .*got 1 to 5"),
    ({"offsets": torch.tensor([0, 2, 2, 5])}, r"offsets: segment 1 runs from 2 to 2.*Leave empty"),
    ({"offsets": torch.tensor([0])}, r"offsets: wanted at least 2 entries"),
    ({"offsets": torch.tensor([0.0, 2.0, 5.0])}, r"offsets: wanted .*int64, got torch.float32"),
    ({"temperature": 0.0}, r"temperature: segment 0: .*above 0, got 0.0"),
    ({"temperature": torch.tensor([1.0, -2.0])}, r"temperature: segment 1: .*got -2.0"),
    ({"temperature": float("inf")}, r"temperature: .*finite"),
    ({"temperature": torch.ones(3)}, r"temperature: wanted .*\(2,\).*got \(3,\)"),
    ({"temperature": torch.tensor(1.0, requires_grad=True)}, r"temperature: has no gradient"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_input_is_a_lesson(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(**changes)


def test_the_solver_of_thresholds_checks_too() -> None:
    with pytest.raises(ValueError, match=r"k: segment 0 .*got -1.0"):
        solve_threshold(GOOD["scores"], torch.tensor([-1.0, 1.0]), GOOD["offsets"], temperature=1.0)


@pytest.mark.parametrize("temperature", [2, 2.0, torch.tensor(2.0), torch.tensor([2.0, 2.0])])
def test_good_input_passes_and_is_left_alone(temperature: float | Tensor) -> None:
    before = {name: x.clone() for name, x in GOOD.items() if isinstance(x, Tensor)}
    p = call(temperature=temperature)
    assert all(torch.equal(GOOD[name], x) for name, x in before.items())
    # soft_topk of s at T is that of s / T at 1
    assert_close(p, call(scores=GOOD["scores"] / 2))
    t = torch.as_tensor(temperature)
    unchecked = soft_topk(GOOD["scores"], GOOD["k"], GOOD["offsets"], temperature=t, check=False)
    assert torch.equal(unchecked, p)


def test_other_device_is_refused() -> None:
    with pytest.raises(ValueError, match=r"k: wanted on cpu like scores, got meta"):
        call(k=torch.ones(2, device="meta"))


def test_auto_is_the_fast_one_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_backend("auto", like=torch.zeros(2)) == "torch"
    assert resolve_backend("auto", like=torch.zeros(2, device="meta")) == "torch"
    assert torch.equal(call(backend="torch"), call())
    monkeypatch.setattr(fast, "soft_topk", None)  # not asked
    assert_close(call(backend="reference").sum(), torch.tensor(2.5))


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_bfloat16_is_computed_in_float32(backend: str) -> None:
    grads = []
    for wide in (False, True):
        scores = GOOD["scores"].bfloat16()
        scores = (scores.float() if wide else scores).requires_grad_()
        p = call(scores=scores, backend=backend)
        assert p.dtype == scores.dtype
        p.bfloat16().float().square().sum().backward()
        grads.append(scores.grad)
    assert grads[0].dtype == torch.bfloat16
    assert torch.equal(grads[0], grads[1].bfloat16())


def test_missing_backend_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ConfigError, match=r"'triton' is not available .*CUDA.*backend='auto'"):
        call(backend="triton")


@pytest.mark.parametrize(("name", "near"), [("tritn", "triton"), ("refrence", "reference")])
def test_unknown_backend_suggests_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}': did you mean '{near}'"):
        call(backend=name)


def test_docstring_example() -> None:
    import doctest

    import dsa_core.kernels

    assert doctest.testmod(dsa_core.kernels).failed == 0
