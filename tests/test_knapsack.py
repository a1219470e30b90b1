"""Importance per cost: on the budget, no worse than any other choice of channels, floors kept."""

from itertools import product

import pytest
import torch
from problems_runs import graph8, trained

from dsa_core.budget import Budget, Cost, QuadraticForm
from dsa_core.errors import BudgetError
from dsa_core.methods import Knapsack
from dsa_core.methods.knapsack import fill
from dsa_core.pruner import Pruner

OFFSETS = torch.tensor([0, 4, 10])  # groups of 4 channels that cost 1/8 each, and of 6, 1/32 each
LINEAR = QuadraticForm(torch.zeros(2, 2).double(), torch.tensor([4 / 8, 6 / 32]).double(), 10 / 32)


def filled(b: list[float], budget: float, *floors: float) -> list[int]:
    least = torch.tensor(floors or (1 / 4, 1 / 6), dtype=torch.float64)
    return fill(torch.tensor(b), LINEAR, budget, least, OFFSETS).tolist()


@pytest.mark.parametrize("divisor", [1, 4])
@pytest.mark.parametrize("ratio", [1.0, 0.7, 0.5, 0.25])
def test_the_budget_is_met_and_nothing_more_fits(ratio, divisor):
    budget, cost = Budget(macs=ratio, divisor=divisor), Cost.of(graph8(), "macs")
    pruner = Pruner(trained(), graph8(), budget, steps=0, method=Knapsack())
    assert pruner.cost["macs"] == pytest.approx(ratio, rel=1e-9)
    counts = pruner.conclude().counts
    assert cost.at(counts) <= budget.limit(cost)
    for step in divisor * torch.eye(len(counts), dtype=torch.int64):
        more = (counts + step).minimum(cost.sizes)
        assert torch.equal(more, counts) or cost.at(more) > budget.limit(cost)


@pytest.mark.parametrize("seed", range(5))
def test_no_choice_of_channels_at_its_cost_is_worth_more(seed):
    b = torch.rand(10, generator=torch.Generator().manual_seed(seed))
    masks = torch.tensor([m for m in product((0.0, 1.0), repeat=10) if any(m[:4]) and any(m[4:])])
    costs, worths = masks @ torch.tensor([4.0] * 4 + [1.0] * 6), masks @ b.square()  # cost in 32nds
    for budget in range(15, 33):
        n, m = filled(b.tolist(), budget / 32)
        worth = b[:4].square().sort().values[-n:].sum() + b[4:].square().sort().values[-m:].sum()
        assert worths[costs <= 4 * n + m].max() == pytest.approx(float(worth))
        assert budget - 10 - 4 < 4 * n + m <= budget - 10  # less than a channel is left


def test_of_equals_the_first_stay_and_floors_at_any_price():
    b = [2.0] * 4 + [1.0] * 6  # worth 4 for 4/32, 1 for 1/32: all are equal
    assert filled(b, 19 / 32) == [2, 1]  # the floors, and then the first group
    assert filled(b, 29 / 32) == [4, 3]
    assert filled([0.1] * 4 + [1.0] * 6, 29 / 32, 3 / 4, 1 / 6) == [3, 6]
    assert filled(b, 15 / 32) == [1, 1]
    with pytest.raises(BudgetError, match="knapsack follows one resource"):
        Knapsack().check_budget(Budget(macs=0.5, params=0.5))
