"""Keep ratios under several budgets: the tightest holds, and its prices are equal at rest."""

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems_budget import ToyCost, chain_cost, linear_cost, normalised, problem_at
from torch import Tensor
from torch.testing import assert_close

from dsa_core import budget as admm
from dsa_core.errors import BudgetError

CHAIN = [16.0, 16.0, 32.0, 32.0]
FLOORS = torch.full((4,), 0.05, dtype=torch.float64)
CHEAP = linear_cost([4, 3, 2, 1])  # another resource of the same four groups


@st.composite
def surfaces(draw: st.DrawFn) -> tuple[list[ToyCost], Tensor, Tensor, list[float]]:
    """Two or three random forms of K groups; log ratios, floors, budgets in reach."""
    k = draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    costs = [
        normalised(uniform(k, k) * (uniform(k, k) < 0.5), uniform(k) + 1e-3)
        for _ in range(draw(st.integers(2, 3)))
    ]
    floors = draw(st.sampled_from([1e-4, 0.3])) * uniform(k).clamp_min(1e-3)
    lowest = [float(cost(floors)) for cost in costs]
    budgets = [low + draw(st.floats(0.01, 1.0)) * (1 - low) for low in lowest]
    return costs, 4 * uniform(k) - 3, floors, budgets


@given(surfaces())
def test_all_budgets_hold_and_the_one_that_binds_is_spent(
    surface: tuple[list[ToyCost], Tensor, Tensor, list[float]],
) -> None:
    costs, v, floors, budgets = surface
    z, shift, binding = admm.shift_to_budgets(v, costs, budgets, floors)
    used = [float(cost(z.exp())) / budget for cost, budget in zip(costs, budgets, strict=True)]
    assert max(used) <= 1 + 1e-9
    assert used[binding] == pytest.approx(1, rel=1e-9)
    assert_close(z, (v - shift).clamp(max=0.0).maximum(floors.log()), rtol=0.0, atol=0.0)
    alone, own_shift = admm.shift_to_budget(v, costs[binding], budgets[binding], floors)
    assert torch.equal(z, alone)
    assert torch.equal(shift, own_shift)


def test_uniform_under_two_budgets_is_the_lower_of_the_two() -> None:
    costs = [chain_cost(CHAIN), CHEAP]
    for budgets in ([0.3, 0.9], [0.9, 0.3]):
        alone = [admm.uniform_ratio(c, b, FLOORS) for c, b in zip(costs, budgets, strict=True)]
        both = admm.uniform_ratio(costs, budgets, FLOORS)
        assert torch.equal(both, torch.minimum(*alone))


def search(
    optimizer: admm.KeepRatioOptimizer,
    gradient: Callable[[Tensor], Tensor],
    budgets: Sequence[float],
    steps: int = 600,
) -> admm.Residuals:
    for s in range(steps):
        now = [admm.budget_at(s, steps, start=1.0, end=b) for b in budgets]
        scale = admm.step_scale_at(s, steps)
        residuals = optimizer.step(gradient(optimizer.keep_ratios), now, step_scale=scale)
        used = [
            float(c(optimizer.keep_ratios)) / b for c, b in zip(optimizer.costs, now, strict=True)
        ]
        assert max(used) <= 1 + 1e-9 or isinstance(optimizer, admm.Paper)
    return residuals


@pytest.mark.parametrize("place", [0, 1])
def test_priced_rests_at_equal_prices_of_the_form_that_binds(place: int) -> None:
    """The other budget is 5 % above what the optimum of the one costs: it stays slack there."""
    problem = problem_at(chain_cost(CHAIN), [0.8, 0.5, 0.7, 0.6], [0.05] * 4)
    slack = 1.05 * float(CHEAP(problem.optimum))
    costs, budgets = [problem.cost, CHEAP], [problem.budget, slack]
    if place == 1:
        costs, budgets = costs[::-1], budgets[::-1]
    optimizer = admm.make_optimizer("priced", costs, floors=problem.floors)
    residuals = search(optimizer, problem.gradient, budgets)
    assert residuals.binding == optimizer.binding == place
    assert optimizer.cost is problem.cost
    assert_close(optimizer.keep_ratios, problem.optimum, rtol=2e-3, atol=0.0)
    own = admm.prices(problem.gradient(optimizer.keep_ratios), problem.cost, optimizer.keep_ratios)
    assert_close(own, torch.full_like(own, -problem.budget), rtol=5e-3, atol=0.0)  # lambda = 1
    assert residuals.price == pytest.approx(-problem.budget, rel=2e-3)
    assert abs(residuals.budget) < 1e-12


def test_priced_settles_near_an_optimum_where_two_budgets_bind() -> None:
    """dL/dalpha = -dF_0/dalpha - dF_1/dalpha at the optimum: both multipliers are 1."""
    costs = [chain_cost(CHAIN), CHEAP]
    optimum = torch.tensor([0.8, 0.5, 0.7, 0.6], dtype=torch.float64)
    c = (costs[0].gradient(optimum) + costs[1].gradient(optimum)) * optimum.square()
    budgets = [float(cost(optimum)) for cost in costs]
    optimizer = admm.make_optimizer("priced", costs, floors=FLOORS)
    search(optimizer, lambda alpha: -c / alpha.square(), budgets)
    found = optimizer.keep_ratios
    for cost, budget in zip(costs, budgets, strict=True):
        assert float(cost(found)) == pytest.approx(budget, rel=2e-2)
    uniform = admm.uniform_ratio(costs, budgets, FLOORS)
    gaps = [float((c / alpha).sum() / (c / optimum).sum()) - 1 for alpha in (found, uniform)]
    assert 0 < gaps[0] < 3e-3 < 5e-2 < gaps[1]  # at most it spends less than both budgets


def test_priced_with_one_form_in_a_list_is_the_same_to_the_bit() -> None:
    problem = problem_at(chain_cost(CHAIN), [0.8, 0.5, 0.7, 0.6], [0.05] * 4)
    for name in ("priced", "paper"):
        one = admm.make_optimizer(name, problem.cost, floors=problem.floors)
        listed = admm.make_optimizer(name, [problem.cost], floors=problem.floors)
        for _ in range(10):
            gradient = problem.gradient(one.keep_ratios)
            assert one.step(gradient, 0.6) == listed.step(gradient, [0.6])
        assert one.state_dict().keys() == listed.state_dict().keys()
        assert "binding" not in one.state_dict()
        assert torch.equal(one.keep_ratios, listed.keep_ratios)


def test_paper_adds_up_the_penalties_of_all_budgets() -> None:
    """One z step by hand: each form has its own u1; z moves by z_lr against the sum's sign."""
    costs, budgets = [linear_cost([1, 3, 0, 0]), linear_cost([0, 0, 1, 1])], [0.5, 0.3]
    own = admm.PaperSettings(z_steps=1, only_shrink=False, stop_at_budget=False, rho1=0.5)
    optimizer = admm.make_optimizer("paper", costs, floors=FLOORS, settings=own)
    state = optimizer.state_dict()
    state["budget_dual"] = u1 = torch.tensor([0.7, 0.2], dtype=torch.float64)
    optimizer.load_state_dict(state)
    alpha = optimizer.keep_ratios
    residuals = optimizer.step(torch.zeros(4), budgets)
    after = optimizer.state_dict()
    excess = torch.stack([cost(alpha) - b for cost, b in zip(costs, budgets, strict=True)])
    assert_close(after["budget_dual"], u1 + 0.5 * excess)
    assert_close(after["z"], state["z"] - 1e-3, rtol=0.0, atol=1e-6)  # both push their groups down
    assert residuals.binding == 1  # .95 / .3 is more than .95 / .5
    assert residuals.budget == pytest.approx(float(costs[1](after["z"].sigmoid())) - 0.3)


def test_paper_meets_both_budgets_and_stops() -> None:
    problem = problem_at(chain_cost(CHAIN), [0.8, 0.5, 0.7, 0.6], [0.05] * 4)
    budgets = [problem.budget, 0.6]
    optimizer = admm.make_optimizer("paper", [problem.cost, CHEAP], floors=FLOORS)
    for _ in range(200):
        optimizer.step(problem.gradient(optimizer.keep_ratios), budgets)
    used = [
        float(c(optimizer.keep_ratios)) / b for c, b in zip(optimizer.costs, budgets, strict=True)
    ]
    assert 0.9 < max(used) <= 1


@pytest.mark.parametrize("name", ["priced", "paper"])
def test_budgets_and_forms_come_in_equal_number(name: str) -> None:
    optimizer = admm.make_optimizer(name, [chain_cost(CHAIN), CHEAP], floors=FLOORS)
    for budgets, n in ((0.5, 1), ([0.5] * 3, 3)):
        with pytest.raises(ValueError, match=f"one ratio for each of 2 cost forms, got {n}"):
            optimizer.step(torch.zeros(4), budgets)
    with pytest.raises(BudgetError, match="cannot be reached"):
        optimizer.step(torch.zeros(4), [0.5, 1e-4])
