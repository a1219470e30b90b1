"""The budget surface (one shift, metric, prices) and the schedules of a search."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems_budget import chain_cost, linear_cost, normalised
from torch import Tensor
from torch.testing import assert_close

from dsa_core import budget as admm
from dsa_core.budget import QuadraticForm
from dsa_core.errors import BudgetError

Surface = tuple[list[QuadraticForm], Tensor, Tensor, list[float]]


@st.composite
def surfaces(draw: st.DrawFn) -> Surface:
    """One to three forms with random Q, q, const >= 0; floors; log ratios, also above 0; budgets
    in reach."""
    k = draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    const = draw(st.sampled_from([0.0, 0.5]))
    costs = [
        normalised(uniform(k, k) * (uniform(k, k) < 0.5), uniform(k) + 1e-3, const)
        for _ in range(draw(st.integers(1, 3)))
    ]
    floors = draw(st.sampled_from([1e-4, 0.3, 1.0])) * uniform(k).clamp_min(1e-3)
    lowest = [float(cost(floors)) for cost in costs]
    budgets = [low + draw(st.floats(0.0, 1.0)) * (1 - low) for low in lowest]
    return costs, floors, 4 * uniform(k) - 3, budgets


@given(surfaces())
def test_one_shift_lands_on_the_budget_that_binds_and_within_all(surface: Surface) -> None:
    costs, floors, v, budgets = surface
    z, shift, binding = admm.shift_to_budgets(v, costs, budgets, floors)
    used = [float(cost(z.exp())) / budget for cost, budget in zip(costs, budgets, strict=True)]
    assert max(used) <= 1 + 1e-8
    assert used[binding] == pytest.approx(1, rel=1e-8)
    assert_close(z, (v - shift).clamp(max=0.0).maximum(floors.log()), rtol=0.0, atol=0.0)
    alone, own_shift = admm.shift_to_budget(v, costs[binding], budgets[binding], floors)
    assert torch.equal(z, alone)
    assert torch.equal(shift, own_shift)


@given(surfaces(), st.floats(0.0, 1.0))
def test_shift_is_monotone_in_the_budget(surface: Surface, share: float) -> None:
    (cost, *_), floors, v, (large, *_) = surface
    lowest = float(cost(floors))
    z_small, shift_small = admm.shift_to_budget(v, cost, lowest + share * (large - lowest), floors)
    z_large, shift_large = admm.shift_to_budget(v, cost, large, floors)
    assert bool((z_small <= z_large + 1e-12).all())
    assert float(shift_small) >= float(shift_large) - 1e-12


def test_shift_is_exact_at_both_ends_and_ignores_a_common_offset() -> None:
    cost, floors = chain_cost([8, 16, 8]), torch.tensor([0.125, 0.5, 0.25], dtype=torch.float64)
    v = torch.tensor([-1.0, 0.5, -0.2], dtype=torch.float64)
    z, _ = admm.shift_to_budget(v, cost, 1.0, floors)
    assert_close(z, torch.zeros_like(v), rtol=0.0, atol=0.0)
    z, _ = admm.shift_to_budget(v, cost, float(cost(floors)), floors)
    assert_close(z, floors.log(), rtol=0.0, atol=0.0)
    z, shift = admm.shift_to_budget(v, cost, 0.5, floors)
    z_up, shift_up = admm.shift_to_budget(v + 3.0, cost, 0.5, floors)
    assert_close(z_up, z)
    assert_close(shift_up, shift + 3.0)


def test_uniform_ratio_is_one_ratio_and_the_floors() -> None:
    floors = torch.tensor([0.1, 0.6, 0.1], dtype=torch.float64)
    # (t + 0.6 + 2 t) / 4 = 0.3 with weights 1, 1, 2: t = 0.2
    alpha = admm.uniform_ratio(linear_cost([1, 1, 2]), 0.3, floors)
    assert_close(alpha, torch.tensor([0.2, 0.6, 0.2], dtype=torch.float64))


def test_metric_is_the_elasticity_and_prices_divide_by_it() -> None:
    cost = chain_cost([8, 16, 8], const=50.0)
    alpha = torch.tensor([0.3, 0.8, 0.5], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(cost(alpha), alpha)
    point = alpha.detach()
    w = admm.metric(cost, point)
    assert_close(w, point * slope / cost(point))
    gradient = torch.tensor([-1.0, 2.0, -3.0], dtype=torch.float64)
    assert_close(admm.prices(gradient, cost, point), gradient * cost(point) / slope)
    assert_close(admm.prices(-0.7 * slope, cost, point), torch.full_like(point, -0.7) * cost(point))


@pytest.mark.parametrize(
    ("budget", "floor", "message"),
    [
        (0.0, 0.1, "got 0.0"),
        (1.2, 0.1, "got 1.2"),
        (math.nan, 0.1, "got nan"),
        (0.3, 0.6, "floor 0.6 is left"),
        (0.5, 0.0, "every floor in"),
    ],
)
def test_impossible_budgets_are_refused(budget: float, floor: float, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        admm.shift_to_budget(torch.zeros(2), linear_cost([1, 1]), budget, torch.full((2,), floor))


def test_budget_schedule_is_geometric_then_exact() -> None:
    values = [admm.budget_at(s, 100, start=0.8, end=0.2, anneal_fraction=0.5) for s in range(100)]
    assert values[0] == 0.8
    assert values[25] == pytest.approx(math.sqrt(0.8 * 0.2))
    assert values[50:] == [0.2] * 50
    assert admm.budget_at(0, 10, start=1.0, end=0.3, anneal_fraction=0.0) == 0.3


def test_sharpness_and_step_schedules_hit_their_ends() -> None:
    assert admm.sharpness_at(0, 11, first=2.0, last=20.0) == 2.0
    assert admm.sharpness_at(5, 11, first=2.0, last=20.0) == pytest.approx(math.sqrt(40.0))
    assert admm.sharpness_at(10, 11, first=2.0, last=20.0) == 20.0
    assert admm.sharpness_at(0, 1, first=2.0, last=20.0) == 20.0
    assert admm.step_scale_at(1, 4) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert admm.step_scale_at(4, 4) == 0.0


def test_schedules_refuse_bad_arguments() -> None:
    with pytest.raises(ValueError, match="end: wanted a finite number > 0, got 0"):
        admm.budget_at(0, 10, start=1.0, end=0.0)
    with pytest.raises(ValueError, match="anneal_fraction"):
        admm.budget_at(0, 10, start=1.0, end=0.5, anneal_fraction=1.5)
    with pytest.raises(ValueError, match="step: wanted an index >= 0"):
        admm.sharpness_at(-1, 10, first=1.0, last=2.0)
    with pytest.raises(ValueError, match="total"):
        admm.step_scale_at(0, 0)
