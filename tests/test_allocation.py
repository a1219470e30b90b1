"""One search answers for every budget it passed: `Allocation.at`."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems_runs import allocate, found, graph8, trained
from torch.testing import assert_close

from dsa_core.budget import Budget, Cost
from dsa_core.errors import BudgetError

SIZES = graph8().sizes


@pytest.mark.parametrize("method", ["dsa", "uniform"])
@pytest.mark.parametrize("resource", ["macs", "params"])
@given(share=st.floats(0, 1))
def test_every_budget_on_the_way(method, resource, share):
    passed = found(method)
    lowest = passed.relaxed_cost(resource)
    ratio = lowest + share * (1 - lowest)
    answer = passed.at(**{resource: ratio})
    cost = Cost.of(graph8(), resource)
    assert answer.budget == Budget(**{resource: ratio})
    assert answer.relaxed_cost(resource) == pytest.approx(ratio, rel=1e-6)
    assert answer.whole_cost(resource) == cost.at(answer.counts) <= ratio * cost.dense * (1 + 1e-9)
    assert answer.met
    assert bool(((answer.counts >= 1) & (answer.counts <= SIZES)).all())
    # less than one more channel of the cheapest group is unused
    one_more = [cost.at(answer.counts + step) for step in torch.eye(len(SIZES)).long()]
    pairs = zip(one_more, answer.counts, SIZES, strict=True)
    fits = [c <= ratio * cost.dense for c, k, n in pairs if k < n]
    assert not any(fits)


def test_its_own_budget_is_its_own_answer():
    for method in ("dsa", "uniform"):
        passed = found(method)
        again = passed.at(macs=0.5)
        assert torch.equal(again.counts, passed.counts)
        assert_close(again.keep_ratios, passed.keep_ratios, rtol=1e-9, atol=0)


def test_between_updates_the_one_above_is_shifted():
    passed = found("dsa")
    above, below = passed.updates[3:5]
    start = torch.tensor(above.keep_ratios, dtype=torch.float64)
    assert_close(passed.at(macs=above.cost).keep_ratios, start, rtol=1e-9, atol=0)
    ratios = passed.at(macs=(above.cost * below.cost) ** 0.5).keep_ratios
    moved = (ratios / start).log()[ratios < 1]
    assert len(moved) > 0
    assert float(moved.max() - moved.min()) < 1e-9
    assert float(moved.max()) < 0


def test_whole_channels_come_by_importance():
    answer = found("dsa").at(macs=0.7)
    for group, count in zip(graph8().prunable, answer.counts.tolist(), strict=True):
        part = slice(group.start, group.start + group.size)
        b, keep = answer.importance[part], answer.keep[part]
        assert int(keep.sum()) == count
        if count < group.size:
            assert float(b[keep].min()) >= float(b[~keep].max())


def test_the_history_is_of_the_budget_that_binds():
    searched = allocate("dsa", trained(), Budget(macs=1.0, params=0.3))
    asked = [update.budget for update in searched.updates]
    assert asked == sorted(asked, reverse=True)
    assert asked[-1] == 0.3
    assert searched.updates[-1].cost == pytest.approx(0.3)
    assert searched.at(params=0.6).relaxed_cost("params") == pytest.approx(0.6)


@pytest.mark.parametrize(("macs", "params"), [(0.8, 0.9), (0.9, 0.6), (0.6, 1.0)])
def test_two_budgets_at_once_hold_both(macs, params):
    passed = found("dsa")
    answer = passed.at(macs=macs, params=params)
    assert answer.met
    assert answer.cost_ratios == {r: answer.whole_ratio(r) for r in ("macs", "params")}
    assert answer.budget.ratios == {"macs": macs, "params": params}
    # the relaxed answer spends one of them; it is the lower of the two single answers
    relaxed = answer.relaxed_cost("macs") / macs, answer.relaxed_cost("params") / params
    assert max(relaxed) == pytest.approx(1, rel=1e-9)
    alone = [passed.at(macs=macs), passed.at(params=params)]
    lower = min(alone, key=lambda a: a.relaxed_cost("macs"))
    assert_close(answer.keep_ratios, lower.keep_ratios, rtol=1e-9, atol=0)
    assert replace(answer, counts=alone[0].counts.clamp_min(SIZES)).met is False


def test_two_budgets_of_which_one_was_never_passed():
    with pytest.raises(BudgetError, match=r"params=0\.1 is below.* down to 0\.\d+ of the dense"):
        found("dsa").at(macs=0.7, params=0.1)


def test_text_of_an_allocation_is_short():
    passed = found("dsa")
    text, least = repr(passed), int((passed.counts / SIZES).argmin())
    assert f"by dsa: {passed.whole_ratio('macs'):.2%} of macs (asked 50.00%)" in text
    assert f"keeps {int(passed.counts.sum())} of {int(SIZES.sum())} channels in 6 groups" in text
    assert f"from {graph8().prunable[least].name} {int(passed.counts[least])}/" in text
    assert len(text) < 300
    assert "params (asked 90.00%)" in repr(passed.at(macs=0.8, params=0.9))


@pytest.mark.parametrize("ratio", [0.499, 0.3, 0.01])
def test_below_the_range_is_an_error(ratio):
    with pytest.raises(BudgetError, match=r"macs=0\.\d+ is below.*down to 0\.5000.*search again"):
        found("dsa").at(macs=ratio)
    assert found("dsa").at(macs=0.4996).whole_ratio("macs") <= 0.4996  # within the tolerance


def test_divisor_and_floors_hold_on_the_way():
    passed = found("dsa")
    budget = Budget(macs=0.5, divisor=8, floors={graph8().prunable[0].name: 0.75})
    answer = replace(passed, budget=budget).at(macs=0.6)
    assert answer.met
    assert bool((answer.counts % 8 == 0).all())
    assert int(answer.counts[0]) >= 12
    assert float(answer.keep_ratios[0]) >= 0.75


def test_without_a_history_of_a_falling_budget_only_the_end_is_known():
    passed = found("dsa")
    constant = tuple(replace(u, budget=0.5) for u in passed.updates)
    for method, updates in (("mine", ()), ("amc", constant)):
        bare = replace(passed, method=method, updates=updates)
        assert bare.at(macs=0.5) is bare
        for other in (0.4, 0.8):
            with pytest.raises(BudgetError, match=f"search by {method} .* its own budget only"):
                bare.at(macs=other)
