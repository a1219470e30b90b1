"""Several budgets at once in whole channels; costs and bisected rounding by slow twins."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from problems_costs import exact, outer_products, random_costs, round_slowly
from problems_networks import TOYS
from torch import Tensor

from dsa_core.budget import Budget, Cost, Resource, round_to_channels
from dsa_core.errors import BudgetError
from dsa_core.tracing import trace

RESOURCES: tuple[Resource, ...] = ("macs", "params", "latency")


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, tuple[Cost, ...], Budget]:
    """Keep ratios, costs of the same groups in 1 to 3 resources, a budget that can be met."""
    k, seed = draw(st.integers(1, 6)), draw(st.integers(0, 10_000))
    named = RESOURCES[: draw(st.integers(1, 3))]
    costs = random_costs(k, seed, named)
    limits = {resource: draw(st.floats(0.02, 1.0)) for resource in named}
    divisor, floor = draw(st.sampled_from([1, 2, 8])), draw(st.sampled_from([0.0, 0.2, 0.5]))
    calibrated = costs[2] if len(costs) == 3 else None
    budget = Budget(**limits, divisor=divisor, floors={"*": floor}, calibrated=calibrated)
    least = budget.least_counts(costs[0])
    assume(all(exact(c, least) <= budget.limit(c) for c in costs))
    level = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))  # ties, starts far above and far below
    noise = torch.rand(k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    alpha = torch.full_like(noise, level) if draw(st.booleans()) else (level + noise).clamp(0, 1)
    return alpha, costs, budget


@given(problem=problems())
def test_rounding_takes_the_steps_of_its_slow_twin(
    problem: tuple[Tensor, tuple[Cost, ...], Budget],
) -> None:
    """So no budget is exceeded, and no step more fits."""
    alpha, costs, budget = problem
    given_ratios = alpha.clone()
    counts = round_to_channels(alpha, costs if len(costs) > 1 else costs[0], budget)
    assert torch.equal(alpha, given_ratios)
    assert counts.tolist() == round_slowly(alpha, costs, budget).tolist()
    assert [cost.at(counts) for cost in costs] == [exact(cost, counts) for cost in costs]
    assert bool((counts >= budget.least_counts(costs[0])).all())
    assert bool(((counts % budget.divisor == 0) | (counts == costs[0].sizes)).all())


def test_the_tightest_of_two_budgets_decides() -> None:
    costs = random_costs(5, 1, ("macs", "params"))
    alpha = torch.ones(5)
    tight, loose = Budget(macs=0.3, params=1.0), Budget(macs=1.0, params=0.3)
    alone = [round_to_channels(alpha, costs[0], Budget(macs=0.3)),
             round_to_channels(alpha, costs[1], Budget(params=0.3))]  # fmt: skip
    assert round_to_channels(alpha, costs, tight).tolist() == alone[0].tolist()
    assert round_to_channels(alpha, costs[::-1], loose).tolist() == alone[1].tolist()


def test_every_limited_resource_needs_its_cost() -> None:
    macs, params = random_costs(3, 0, ("macs", "params"))
    budget = Budget(params=0.3, macs=0.5)
    assert list(budget.ratios.items()) == [("macs", 0.5), ("params", 0.3)]
    assert (budget.resource, budget.ratio) == ("macs", 0.5)
    assert budget.limited([params, macs]) == (macs, params)
    for costs, got in ((macs, "macs"), ([macs, macs], "macs"), ((), "nothing")):
        with pytest.raises(BudgetError, match=f"limits macs and params, got the cost of {got};"):
            budget.check(costs)
    with pytest.raises(BudgetError, match="limits macs, got the cost of macs and params"):
        round_to_channels(torch.ones(3), (macs, params), Budget(macs=0.5))


def test_the_budget_that_cannot_be_met_is_named() -> None:
    costs = random_costs(4, 2, ("macs", "params"))
    with pytest.raises(BudgetError, match=r"^params=0\.001 cannot be reached"):
        Budget(macs=0.9, params=0.001).check(costs)


def test_a_ratio_that_is_a_count_over_a_huge_dense_cost_buys_that_count() -> None:
    """k / dense * dense may come out below k by a rounding: no reason to refuse channel k."""
    (small,) = random_costs(1, 0)
    form = small.form.scaled((3 * 10**12 + 7) / small.dense)
    cost = Cost("macs", form, small.sizes, small.names)
    counts = range(10**12, 10**12 + 200)
    short = [k for k in counts if k / cost.dense * cost.dense < k - 1e-5]
    assert len(short) > 10
    assert all(Budget(macs=k / cost.dense).limit(cost) == k for k in counts)


# Costs: the sum over pairs of groups against dense outer products.


@pytest.mark.parametrize("resource", ["macs", "params"])
@pytest.mark.parametrize("toy", TOYS, ids=lambda t: t.name)
def test_form_is_the_dense_sum_of_outer_products(toy, resource: Resource) -> None:  # type: ignore[no-untyped-def]
    graph = trace(toy.build(), torch.randn(1, *toy.shape))
    form, wanted = Cost.of(graph, resource).form, outer_products(graph, resource)
    assert torch.equal(form.Q, wanted.Q)
    assert torch.equal(form.q, wanted.q)
    assert form.constant == wanted.constant
