"""Keep ratios under several budgets: the tightest holds, and its prices are equal at rest."""

import pytest
import torch
from problems_budget import chain_cost, friendly_problem, linear_cost, search
from torch.testing import assert_close

from dsa_core import budget as admm
from dsa_core.errors import BudgetError

CHAIN = [16.0, 16.0, 32.0, 32.0]
FLOORS = torch.full((4,), 0.05, dtype=torch.float64)
CHEAP = linear_cost([4, 3, 2, 1])  # another resource of the same four groups


def test_uniform_under_two_budgets_is_the_lower_of_the_two() -> None:
    costs = [chain_cost(CHAIN), CHEAP]
    for budgets in ([0.3, 0.9], [0.9, 0.3]):
        alone = [admm.uniform_ratio(c, b, FLOORS) for c, b in zip(costs, budgets, strict=True)]
        both = admm.uniform_ratio(costs, budgets, FLOORS)
        assert torch.equal(both, torch.minimum(*alone))


@pytest.mark.parametrize("place", [0, 1])
def test_priced_rests_at_equal_prices_of_the_form_that_binds(place: int) -> None:
    """The other budget is 5 % above what the optimum of the one costs: it stays slack there."""
    problem = friendly_problem()
    slack = 1.05 * float(CHEAP(problem.optimum))
    costs, budgets = [problem.cost, CHEAP], [problem.budget, slack]
    if place == 1:
        costs, budgets = costs[::-1], budgets[::-1]
    optimizer = admm.make_optimizer("priced", costs, floors=problem.floors)
    residuals = search(optimizer, problem.gradient, budgets, steps=600)
    assert optimizer.binding == place
    assert optimizer.cost is problem.cost
    assert_close(optimizer.keep_ratios, problem.optimum, rtol=2e-3, atol=0.0)
    own = admm.prices(problem.gradient(optimizer.keep_ratios), problem.cost, optimizer.keep_ratios)
    assert_close(own, torch.full_like(own, -problem.budget), rtol=5e-3, atol=0.0)  # lambda = 1
    assert residuals.price == pytest.approx(-problem.budget, rel=2e-3)
    assert abs(float(problem.cost(optimizer.keep_ratios)) - problem.budget) < 1e-12


def test_priced_settles_near_an_optimum_where_two_budgets_bind() -> None:
    """dL/dalpha = -dF_0/dalpha - dF_1/dalpha at the optimum: both multipliers are 1."""
    costs = [chain_cost(CHAIN), CHEAP]
    optimum = torch.tensor([0.8, 0.5, 0.7, 0.6], dtype=torch.float64)
    c = (costs[0].gradient(optimum) + costs[1].gradient(optimum)) * optimum.square()
    budgets = [float(cost(optimum)) for cost in costs]
    optimizer = admm.make_optimizer("priced", costs, floors=FLOORS)
    search(optimizer, lambda alpha: -c / alpha.square(), budgets, steps=600)
    found = optimizer.keep_ratios
    for cost, budget in zip(costs, budgets, strict=True):
        assert float(cost(found)) == pytest.approx(budget, rel=2e-2)
    uniform = admm.uniform_ratio(costs, budgets, FLOORS)
    gaps = [float((c / alpha).sum() / (c / optimum).sum()) - 1 for alpha in (found, uniform)]
    assert 0 < gaps[0] < 3e-3 < 5e-2 < gaps[1]  # at most it spends less than both budgets


@pytest.mark.parametrize("name", ["priced", "paper"])
def test_one_form_in_a_list_is_the_same_to_the_bit(name: str) -> None:
    problem = friendly_problem()
    one = admm.make_optimizer(name, problem.cost, floors=problem.floors)
    listed = admm.make_optimizer(name, [problem.cost], floors=problem.floors)
    for _ in range(10):
        gradient = problem.gradient(one.keep_ratios)
        assert one.step(gradient, 0.6) == listed.step(gradient, [0.6])
    assert one.state_dict().keys() == listed.state_dict().keys()
    assert "binding" not in one.state_dict()


def test_paper_adds_up_the_penalties_of_all_budgets() -> None:
    """One z step by hand: each form has its own u1; z moves by z_lr against the sum's sign."""
    costs, budgets = [linear_cost([1, 3, 0, 0]), linear_cost([0, 0, 1, 1])], [0.5, 0.3]
    own = admm.PaperSettings(z_steps=1, only_shrink=False, stop_at_budget=False, rho1=0.5)
    optimizer = admm.make_optimizer("paper", costs, floors=FLOORS, settings=own)
    state = optimizer.state_dict()
    state["budget_dual"] = u1 = torch.tensor([0.7, 0.2], dtype=torch.float64)
    optimizer.load_state_dict(state)
    alpha = optimizer.keep_ratios
    optimizer.step(torch.zeros(4), budgets)
    after = optimizer.state_dict()
    excess = torch.stack([cost(alpha) - b for cost, b in zip(costs, budgets, strict=True)])
    assert_close(after["budget_dual"], u1 + 0.5 * excess)
    assert_close(after["z"], state["z"] - 1e-3, rtol=0.0, atol=1e-6)  # both push their groups down
    assert optimizer.binding == 1  # .95 / .3 is more than .95 / .5


def test_paper_meets_both_budgets_and_stops() -> None:
    problem, costs = friendly_problem(), [friendly_problem().cost, CHEAP]
    budgets = [problem.budget, 0.6]
    optimizer = admm.make_optimizer("paper", costs, floors=FLOORS)
    for _ in range(200):
        optimizer.step(problem.gradient(optimizer.keep_ratios), budgets)
    spent = [float(cost(optimizer.keep_ratios)) for cost in costs]
    assert 0.9 < max(s / b for s, b in zip(spent, budgets, strict=True)) <= 1


@pytest.mark.parametrize("name", ["priced", "paper"])
def test_budgets_and_forms_come_in_equal_number(name: str) -> None:
    optimizer = admm.make_optimizer(name, [chain_cost(CHAIN), CHEAP], floors=FLOORS)
    for budgets, n in ((0.5, 1), ([0.5] * 3, 3)):
        with pytest.raises(ValueError, match=f"one ratio for each of 2 cost forms, got {n}"):
            optimizer.step(torch.zeros(4), budgets)
    with pytest.raises(BudgetError, match="cannot be reached"):
        optimizer.step(torch.zeros(4), [0.5, 1e-4])
