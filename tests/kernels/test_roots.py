"""Roots of rising functions with known answers."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from dsa_core.kernels import roots
from dsa_core.kernels.roots import find_root

WIDE = torch.tensor([-3.0, -1.0, 0.0, 1e-3, 2.0], dtype=torch.float64)  # arguments of the roots


def cube(x: Tensor) -> Tensor:
    """x^3, flat at 0."""
    return (x**3 - WIDE**3) / (3 * x**2)


def arctan(x: Tensor) -> Tensor:
    """Newton's method alone runs away from beyond 1.39."""
    return torch.atan(x - WIDE) * (1 + (x - WIDE) ** 2)


def stair(x: Tensor) -> Tensor:
    """A step at each root, with no slope at all: only halving finds it."""
    return torch.where(x < WIDE, -torch.inf, torch.inf).double()


def ends(low: float, high: float) -> tuple[Tensor, Tensor]:
    return torch.full_like(WIDE, low), torch.full_like(WIDE, high)


@pytest.mark.parametrize("step", [cube, arctan, stair])
def test_the_root_is_found_whatever_the_slope(step: roots.Step) -> None:
    x, evaluations = find_root(step, *ends(-40.0, 50.0))
    # at the flat root of x^3 a step is a third of the error, not all of it
    assert_close(x, WIDE, rtol=1e-12, atol=2e-7 if step is cube else 1e-13)
    assert evaluations <= 60


def test_newton_needs_few_evaluations() -> None:
    x, evaluations = find_root(lambda x: 1 - 2 * (-x).exp(), *ends(0.0, 1.0))  # exp(x) = 2
    assert_close(x, torch.full_like(x, 2.0).log(), rtol=1e-15, atol=0.0)
    assert evaluations <= 4  # halving gains a bit each: 50


def test_what_is_done_stands_still() -> None:
    together, evaluations = find_root(arctan, *ends(-40.0, 50.0), nearly=1e-2)
    for i in range(len(WIDE)):

        def alone(x: Tensor, i: int = i) -> Tensor:
            return arctan(x.expand(len(WIDE)))[i : i + 1]

        x, fewer = find_root(alone, *(end[:1] for end in ends(-40.0, 50.0)), nearly=1e-2)
        assert torch.equal(x, together[i : i + 1])
        assert fewer <= evaluations


def test_the_caller_judges_what_was_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roots, "MAX_EVALUATIONS", 3)
    x, evaluations = find_root(stair, *ends(-40.0, 50.0))
    assert evaluations == 3
    assert not torch.allclose(x, WIDE)


def test_a_single_number_has_no_shape() -> None:
    low, high = torch.zeros(2, dtype=torch.float64).unbind()
    x, _ = find_root(lambda x: (x**2 - 2) / (2 * x), low, high + 2)
    assert_close(x, torch.tensor(2.0, dtype=torch.float64).sqrt())
