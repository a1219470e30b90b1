"""Costs against the papers' numbers and closed forms; rounding to whole channels."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from dsa_core.budget import Budget, Cost, QuadraticForm, as_budget, round_to_channels, uniform_ratio
from dsa_core.channels import ChannelGraph
from dsa_core.errors import BudgetError
from dsa_core.lab import models
from dsa_core.tracing import trace

PAPERS = {  # name: keep ratios at 75, 50, 33.3, 25 %; sizes and MACs are in test_models.py
    "resnet20": (0.865, 0.706, 0.575, 0.497),
    "resnet56": (0.866, 0.707, 0.577, 0.499),
    "resnet18_cifar": (0.866, 0.707, 0.577, 0.499),
    "vgg16_cifar": (0.866, 0.706, 0.576, 0.499),
}


def traced(name: str) -> ChannelGraph:
    return trace(models.build(name), models.example_input(name))


@pytest.mark.parametrize("name", PAPERS)
def test_numbers_of_the_papers(name: str) -> None:
    """Of convolutions only, as the papers count."""
    graph = traced(name)
    convolutions = tuple(layer for layer in graph.layers if layer.kind == "conv")
    form = Cost.of(replace(graph, layers=convolutions), "macs").relative
    floors = torch.full((len(graph.prunable),), 1e-3, dtype=torch.float64)
    for budget, wanted in zip((0.75, 0.5, 1 / 3, 0.25), PAPERS[name], strict=True):
        alpha = float(uniform_ratio(form, budget, floors).max())
        assert alpha == pytest.approx(wanted, abs=6e-4), budget


@pytest.mark.parametrize("resource", ["macs", "params"])
def test_gradient_of_the_form_by_finite_differences(resource: str) -> None:
    form = Cost.of(traced("resnet20"), resource).relative  # type: ignore[arg-type]
    alpha = torch.rand(12, dtype=torch.float64)
    step = 1e-4 * torch.eye(12, dtype=torch.float64)
    # the form is quadratic: central differences are exact up to rounding
    slope = torch.stack([(form(alpha + s) - form(alpha - s)) / 2e-4 for s in step])
    torch.testing.assert_close(form.gradient(alpha), slope, rtol=1e-9, atol=1e-10)
    assert float(form(torch.ones(12))) == pytest.approx(1.0, abs=1e-12)


def test_unknown_resource_is_refused() -> None:
    with pytest.raises(BudgetError, match="'flops'"):
        Cost.of(traced("resnet8"), "flops")  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match="dsa calibrate"):
        Cost.of(traced("resnet8"), "latency")


@pytest.mark.parametrize(
    ("settings_", "words"),
    [
        ({}, "one resource.* got none"),
        ({"latency": 0.5, "latency_ms": 2.0}, "got latency and latency_ms"),
        ({"macs": 0.5, "latency": 0.5}, "what a channel costs on this machine"),
        ({"macs": 0.5, "params": 1.5}, r"params must be a ratio in \(0, 1\], got 1.5"),
        ({"macs": "0.5"}, "macs: wanted a number such as 0.5, got '0.5'"),
        ({"params": True}, "params: wanted a number such as 0.5, got True"),
        ({"macs": torch.ones(2)}, "macs: wanted a number such as 0.5, got tensor"),
        ({"macs": 0.0}, r"\(0, 1\]"),
        ({"macs": math.nan}, r"\(0, 1\], got nan"),
        ({"macs": 0.5, "divisor": 0}, "divisor must be at least 1"),
        ({"macs": 0.5, "divisor": 2.5}, "divisor must be .* a whole number such as 8, got 2.5"),
        ({"macs": 0.5, "divisor": True}, "a whole number such as 8, got True"),
        ({"macs": 0.5, "floors": 0.1}, r"\{'\*': 0.1\} for all groups; got 0.1"),
        ({"macs": 0.5, "floors": {"conv1": "0.2"}}, "floor of 'conv1': wanted a number"),
        ({"macs": 0.5, "floors": {"conv1": 1.2}}, "conv1"),
    ],
)
def test_budgets_that_make_no_sense(settings_: dict, words: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(BudgetError, match=words):
        Budget(**settings_)


def test_a_number_without_its_resource_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"resource: Budget\(macs=0.5\), got Budget\(0.3"):
        Budget(0.3)  # type: ignore[misc]
    with pytest.raises(BudgetError, match=r"such as Budget\(macs=0.3\), got 0.3"):
        as_budget(0.3)
    with pytest.raises(BudgetError, match=r"such as Budget\(macs=0.5\), got '0.3'"):
        as_budget("0.3")
    budget = Budget(macs=0.5)
    assert as_budget(budget) is budget
    assert replace(budget, params=0.3) == copy.deepcopy(Budget(params=0.3, macs=0.5))


def test_unreachable_budget_names_the_floor_and_the_lowest_ratio() -> None:
    cost = Cost.of(traced("resnet20"), "macs")
    floors = {"layer3.0.conv1": 0.9, "layer3.0.conv2": 0.9, "conv1": 0.9}
    budget = Budget(macs=0.02, floors=floors)
    lowest = cost.at(budget.least_counts(cost)) / cost.dense
    with pytest.raises(BudgetError, match=r"layer3\.0\.conv1") as caught:
        budget.check(cost)
    assert f"{lowest:.6f}" in str(caught.value)
    reachable = float(str(caught.value).split("Ask for ")[1].split(" ")[0])
    Budget(macs=reachable, floors=floors).check(cost)  # the advice works
    with pytest.raises(BudgetError, match="cannot be reached"):
        round_to_channels(torch.ones(12), cost, budget)


def test_unknown_floor_names_are_refused() -> None:
    cost = Cost.of(traced("resnet8"), "macs")
    with pytest.raises(BudgetError, match=r"no prunable group is named \['convl'\].*conv1"):
        Budget(macs=0.5, floors={"convl": 0.5}).check(cost)


@pytest.mark.parametrize("divisor", [1000, 24])
def test_a_divisor_that_is_too_large_is_named_with_the_largest_that_works(divisor: int) -> None:
    cost = Cost.of(traced("resnet20"), "macs")
    with pytest.raises(BudgetError, match=f"divisor={divisor} channels no group") as caught:
        Budget(macs=0.3, divisor=divisor).check(cost)
    assert "take divisor=12," in str(caught.value)
    assert "floors" not in str(caught.value)
    Budget(macs=0.3, divisor=12).check(cost)
    for more in range(13, 25):
        with pytest.raises(BudgetError):
            Budget(macs=0.3, divisor=more).check(cost)


def test_a_group_of_twelve_in_steps_of_eight_keeps_eight_or_twelve() -> None:
    form = QuadraticForm(torch.zeros(1, 1).double(), torch.tensor([12.0]).double(), 0.0)
    cost = Cost("macs", form, torch.tensor([12]), ("g",))
    found = {
        ratio: int(round_to_channels(torch.tensor([ratio]), cost, Budget(macs=ratio, divisor=8)))
        for ratio in (0.67, 0.9, 0.99, 1.0)
    }
    assert found == {0.67: 8, 0.9: 8, 0.99: 8, 1.0: 12}
    with pytest.raises(BudgetError, match=r"Ask for 0\.6667 or more"):
        Budget(macs=0.6, divisor=8).check(cost)


def test_ratios_on_the_budget_lose_less_than_one_channel_each() -> None:
    """Where the ratios already meet the budget, rounding stays near them."""
    cost = Cost.of(traced("resnet20"), "macs")
    alpha = torch.full((12,), 0.7)
    ratio = float(cost.relative(alpha))
    counts = round_to_channels(alpha, cost, Budget(macs=ratio))
    assert ((counts - 0.7 * cost.sizes).abs() < 1.0 + 1e-6).all()
