"""The public door: backends, and errors that name the argument and the segment."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from dsa_core.errors import ConfigError
from dsa_core.kernels import backends, check_inputs, resolve_backend, soft_topk, solve_threshold

GOOD: dict[str, Any] = {
    "scores": torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]),
    "k": torch.tensor([1.0, 1.5]),
    "offsets": torch.tensor([0, 2, 5]),
    "temperature": 1.0,
}
DOORS = [soft_topk, solve_threshold]


def call(door: Callable[..., Any], **changes: Any) -> Any:
    a = GOOD | changes
    return door(a["scores"], a["k"], a["offsets"], temperature=a["temperature"])


NAN = torch.tensor([0.0, 1.0, 2.0, float("nan"), 4.0])
FIRST = torch.tensor([0.0, 1.0, float("inf"), 3.0, 4.0])
INF = torch.tensor([0.0, float("-inf"), 2.0, 3.0, 4.0])
BAD = [
    ({"scores": NAN}, r"scores: segment 1, position 1: .*finite.*got nan"),
    ({"scores": FIRST}, r"scores: segment 1, position 0: .*got inf"),
    ({"scores": INF}, r"scores: segment 0, position 1: .*got -inf.*clamp the importance"),
    (
        {"scores": torch.arange(5)},
        r"scores: wanted a tensor of float32, float64 or bfloat16, got torch.int",
    ),
    ({"scores": torch.zeros(5).half()}, r"scores: wanted .*got torch.float16"),
    ({"scores": [0.0] * 5}, r"scores: wanted a tensor .*got list"),
    ({"scores": torch.zeros(5, 1)}, r"scores: wanted shape \(any length,\), got \(5, 1\)"),
    ({"k": torch.tensor([1.0, 0.0])}, r"k: segment 1 has 3 channels: .*\(0, 3\], got 0.0"),
    ({"k": torch.tensor([-1.0, 1.0])}, r"k: segment 0 .*got -1.0"),
    ({"k": torch.tensor([1.0, 3.5])}, r"k: segment 1 .*got 3.5.*clamp"),
    ({"k": torch.tensor([float("nan"), 1.0])}, r"k: segment 0 .*got nan"),
    ({"k": torch.tensor([1, 2])}, r"k: wanted a tensor of float32 or float64, got torch.int64"),
    ({"k": torch.tensor([1.0])}, r"k: wanted shape \(2,\), got \(1,\)"),
    ({"k": 1.0}, r"k: wanted a tensor .*got float"),
    ({"offsets": torch.tensor([0, 2, 4])}, r"offsets: wanted to run from 0 to n = 5, got 0 to 4"),
    ({"offsets": torch.tensor([1, 2, 5])}, r"offsets: .*got 1 to 5"),
    ({"offsets": torch.tensor([0, 2, 2, 5])}, r"offsets: segment 1 runs from 2 to 2.*Leave empty"),
    ({"offsets": torch.tensor([0, 3, 2, 5])}, r"offsets: segment 1 runs from 3 to 2"),
    ({"offsets": torch.tensor([0])}, r"offsets: wanted at least 2 entries"),
    ({"offsets": torch.tensor([0.0, 2.0, 5.0])}, r"offsets: wanted .*int64, got torch.float32"),
    ({"temperature": 0.0}, r"temperature: segment 0: .*above 0, got 0.0"),
    ({"temperature": torch.tensor([1.0, -2.0])}, r"temperature: segment 1: .*got -2.0"),
    ({"temperature": float("inf")}, r"temperature: .*finite"),
    ({"temperature": torch.ones(3)}, r"temperature: wanted .*\(2,\).*got \(3,\)"),
    ({"temperature": torch.tensor(1.0, requires_grad=True)}, r"temperature: has no gradient"),
]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_input_is_a_lesson(
    door: Callable[..., Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(door, **changes)


@pytest.mark.parametrize("door", DOORS)
def test_good_input_passes_and_is_left_alone(door: Callable[..., Any]) -> None:
    before = {name: x.clone() for name, x in GOOD.items() if isinstance(x, Tensor)}
    call(door)
    call(door, k=torch.tensor([2.0, 3.0]))
    assert all(torch.equal(GOOD[name], x) for name, x in before.items())


@pytest.mark.parametrize("temperature", [2, 2.0, torch.tensor(2.0), torch.tensor([2.0, 2.0])])
def test_temperature_becomes_one_value_per_segment(temperature: float | Tensor) -> None:
    t = call(check_inputs, temperature=temperature)
    assert t.dtype == torch.float64
    assert t.tolist() == [2.0, 2.0]


def test_other_device_is_refused() -> None:
    with pytest.raises(ValueError, match=r"k: wanted on cpu like scores, got meta"):
        call(soft_topk, k=torch.ones(2, device="meta"))


def test_auto_is_the_fast_one_of_the_device() -> None:
    assert resolve_backend("auto") == "torch"
    assert resolve_backend("auto", like=torch.zeros(2, dtype=torch.float64)) == "torch"
    assert resolve_backend("auto", like=torch.zeros(2, device="meta")) == "torch"
    p = soft_topk(GOOD["scores"], GOOD["k"], GOOD["offsets"], temperature=1.0, backend="torch")
    assert torch.equal(p, call(soft_topk))
    assert resolve_backend("reference") == "reference"


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_bfloat16_is_computed_in_float32(backend: str) -> None:
    scores, k, offsets = GOOD["scores"].bfloat16().requires_grad_(), GOOD["k"], GOOD["offsets"]
    p = soft_topk(scores, k, offsets, temperature=1.0, backend=backend)
    assert p.dtype == torch.bfloat16
    assert_close(p, call(soft_topk).bfloat16())
    p.float().square().sum().backward()
    assert scores.grad.dtype == torch.bfloat16


def test_unchecked_is_the_same_answer() -> None:
    p = soft_topk(GOOD["scores"], GOOD["k"], GOOD["offsets"], temperature=1.0, check=False)
    assert torch.equal(p, call(soft_topk))


def test_missing_backend_says_so() -> None:
    if "triton" in backends():
        pytest.skip("the triton backend is there")
    with pytest.raises(ConfigError, match=r"'triton' is not available .*CUDA.*backend='auto'"):
        soft_topk(GOOD["scores"], GOOD["k"], GOOD["offsets"], temperature=1.0, backend="triton")


@pytest.mark.parametrize(("name", "near"), [("tritn", "triton"), ("refrence", "reference")])
def test_unknown_backend_suggests_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}': did you mean '{near}'"):
        soft_topk(GOOD["scores"], GOOD["k"], GOOD["offsets"], temperature=1.0, backend=name)


def test_docstring_example() -> None:
    import doctest

    import dsa_core.kernels

    assert doctest.testmod(dsa_core.kernels).failed == 0
