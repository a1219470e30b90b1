"""Roots of rising functions with known answers."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from dsa_core.kernels import roots
from dsa_core.kernels.roots import find_root

WIDE = torch.tensor([-3.0, -1.0, 0.0, 1e-3, 2.0], dtype=torch.float64)  # arguments of the roots


def cube(x: Tensor) -> tuple[Tensor, Tensor]:
    """x^3, flat at 0."""
    return x**3 - WIDE**3, 3 * x**2


def arctan(x: Tensor) -> tuple[Tensor, Tensor]:
    """Newton's method alone runs away from beyond 1.39."""
    return torch.atan(x - WIDE), 1 / (1 + (x - WIDE) ** 2)


def stair(x: Tensor) -> tuple[Tensor, Tensor]:
    """A step at each root, with no slope at all: only halving finds it."""
    return torch.where(x < WIDE, -1.0, 1.0).double(), torch.zeros_like(x)


def ends(low: float, high: float) -> tuple[Tensor, Tensor]:
    return torch.full_like(WIDE, low), torch.full_like(WIDE, high)


@pytest.mark.parametrize("f", [cube, arctan, stair])
def test_the_root_is_found_whatever_the_slope(f: roots.Rising) -> None:
    x, evaluations = find_root(f, *ends(-40.0, 50.0), resolved=1e-15)
    # x^3 is below 1e-15 up to 1e-5
    assert_close(x, WIDE, rtol=1e-12, atol=1e-5 if f is cube else 1e-13)
    assert evaluations <= 60


def test_newton_needs_few_evaluations() -> None:
    _, evaluations = find_root(lambda x: (x.exp() - 2, x.exp()), *ends(0.0, 1.0), resolved=1e-14)
    assert evaluations <= 6  # halving gains a bit each: 47


def test_what_is_done_stands_still() -> None:
    together, evaluations = find_root(arctan, *ends(-40.0, 50.0), resolved=1e-3)
    for i in range(len(WIDE)):

        def alone(x: Tensor, i: int = i) -> tuple[Tensor, Tensor]:
            value, slope = arctan(x.expand(len(WIDE)))
            return value[i : i + 1], slope[i : i + 1]

        x, fewer = find_root(alone, *(end[:1] for end in ends(-40.0, 50.0)), resolved=1e-3)
        assert torch.equal(x, together[i : i + 1])
        assert fewer <= evaluations


def test_the_caller_judges_what_was_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roots, "MAX_EVALUATIONS", 3)
    x, evaluations = find_root(stair, *ends(-40.0, 50.0), resolved=1e-15)
    assert evaluations == 3
    assert not torch.allclose(x, WIDE)


def test_a_single_number_has_no_shape() -> None:
    low, high = torch.zeros(2, dtype=torch.float64).unbind()
    x, _ = find_root(lambda x: (x**2 - 2, 2 * x), low, high + 2, resolved=1e-15)
    assert_close(x, torch.tensor(2.0, dtype=torch.float64).sqrt())
