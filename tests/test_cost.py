"""Costs against the papers' numbers and closed forms; rounding to whole channels."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from problems_networks import TOYS
from torch import Tensor, nn

from dsa_core.budget import Budget, Cost, QuadraticForm, as_budget, round_to_channels, uniform_ratio
from dsa_core.channels import ChannelGraph
from dsa_core.errors import BudgetError
from dsa_core.lab import models
from dsa_core.tracing import trace

PAPERS = {  # name: (conv MACs in M, conv parameters in M, keep ratios at 75, 50, 33.3, 25 %)
    "resnet20": (40.81, 0.270, (0.865, 0.706, 0.575, 0.497)),
    "resnet56": (125.75, 0.851, (0.866, 0.707, 0.577, 0.499)),
    "resnet18_cifar": (555.42, 11.159, (0.866, 0.707, 0.577, 0.499)),
    "vgg16_cifar": (313.20, 14.710, (0.866, 0.706, 0.576, 0.499)),
}


def traced(name: str) -> ChannelGraph:
    return trace(models.build(name), models.example_input(name))


def conv_form(graph: ChannelGraph) -> QuadraticForm:
    """Convolutions only, as the papers count, in units of the dense network.

    MACs of a convolution = coefficient * out * in; each of the two lengths is C_k alpha_k of the
    group its channels belong to, or a constant. Written without the library's accumulator.
    """
    k = len(graph.prunable)
    group_of = torch.repeat_interleave(torch.arange(k), graph.sizes)
    Q, q, constant = torch.zeros(k, k).double(), torch.zeros(k).double(), 0.0
    for layer in graph.layers:
        if layer.kind != "conv":
            continue
        rows, columns = layer.out_channels, layer.in_channels
        assert columns is not None
        out = group_of[rows[0]]
        assert (group_of[rows] == out).all()
        if (columns < 0).all():
            q[out] += layer.coefficient * len(rows) * len(columns)
        else:
            Q[out, group_of[columns[0]]] += layer.coefficient * len(rows) * len(columns)
    total = float(Q.sum() + q.sum() + constant)
    return QuadraticForm((Q + Q.T) / 2 / total, q / total, constant / total)


@pytest.mark.parametrize("name", PAPERS)
def test_numbers_of_the_papers(name: str) -> None:
    macs, params, ratios = PAPERS[name]
    graph = traced(name)
    convs = [layer for layer in graph.layers if layer.kind == "conv"]
    total = sum(x.coefficient * math.prod(x.shape[:2]) for x in convs)
    assert round(total / 1e6, 2) == macs
    assert round(sum(math.prod(x.shape) for x in convs) / 1e6, 3) == params
    form = conv_form(graph)
    floors = torch.full((len(graph.prunable),), 1e-3, dtype=torch.float64)
    for budget, wanted in zip((0.75, 0.5, 1 / 3, 0.25), ratios, strict=True):
        alpha = float(uniform_ratio(form, budget, floors).max())
        assert alpha == pytest.approx(wanted, abs=6e-4), budget


@pytest.mark.parametrize("name", PAPERS)
def test_form_is_the_sum_over_layers(name: str) -> None:
    """Our MACs = the convolutions' form times their total, plus the linear layers."""
    graph = traced(name)
    alpha = torch.rand(len(graph.prunable), dtype=torch.float64)
    convs = sum(x.coefficient * math.prod(x.shape[:2]) for x in graph.layers if x.kind == "conv")
    linear = 0.0
    group_of = torch.repeat_interleave(torch.arange(len(alpha)), graph.sizes)
    for layer in (x for x in graph.layers if x.kind == "linear"):
        sides = [layer.out_channels, layer.in_channels]
        lengths = [
            len(s) if (s < 0).all() else len(s) * float(alpha[group_of[s[0]]]) for s in sides
        ]
        linear += math.prod(lengths)
    wanted = float(conv_form(graph)(alpha)) * convs + linear
    assert float(Cost.of(graph, "macs").form(alpha)) == pytest.approx(wanted, rel=1e-12)


class Loop(nn.Module):
    """Its body reads the group that it writes."""

    def __init__(self) -> None:
        super().__init__()
        pairs = ((1, 4), (4, 4), (4, 1))
        self.stem, self.body, self.head = (nn.Conv2d(a, b, 1, bias=False) for a, b in pairs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.body(x))


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_layer_within_one_group_costs_its_square(n: int) -> None:
    cost = Cost.of(trace(Loop(), torch.zeros(1, 1, 1, 1)), "macs")
    assert cost.at(torch.tensor([n])) == n + n * n + n


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
        ({"params": 1.5}, r"params must be a ratio in \(0, 1\], got 1.5"),
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


def test_a_divisor_that_is_too_large_is_named_with_the_largest_that_works() -> None:
    cost = Cost.of(traced("resnet20"), "macs")
    for divisor in (1000, 24):
        with pytest.raises(BudgetError, match=f"divisor={divisor} channels no group") as caught:
            Budget(macs=0.3, divisor=divisor).check(cost)
        assert "floors" not in str(caught.value)
        largest = int(str(caught.value).split("take divisor=")[1].split(",")[0])
        Budget(macs=0.3, divisor=largest).check(cost)
        for more in range(largest + 1, divisor):
            with pytest.raises(BudgetError):
                Budget(macs=0.3, divisor=more).check(cost)


def random_cost(k: int, seed: int) -> Cost:
    g = torch.Generator().manual_seed(seed)
    Q = torch.rand(k, k, generator=g, dtype=torch.float64)
    Q = Q * (torch.rand(k, k, generator=g) < 0.5)
    q = torch.rand(k, generator=g, dtype=torch.float64) + 0.01
    sizes = torch.randint(1, 40, (k,), generator=g)
    n = sizes.double()
    per_channel = 1000 * torch.outer(n, n) * (Q + Q.T)  # whole numbers: exact for counts
    form = QuadraticForm(per_channel.round(), (1000 * n * q).round(), 17.0)
    return Cost("macs", form, sizes, tuple(f"g{i}" for i in range(k)))


def allowed(count: int, size: int, divisor: int) -> bool:
    return count == size or (count > 0 and count % divisor == 0)


def assert_tight(counts: Tensor, cost: Cost, budget: Budget) -> None:
    """Within the budget and the floors, in allowed steps, and no further step fits."""
    limit = budget.ratio * cost.dense
    least = budget.least_counts(cost)
    value = float(cost.form(counts.double() / cost.sizes.double()))
    assert value <= limit + 1e-6 * limit
    assert (counts >= least).all()
    for k, (count, size) in enumerate(zip(counts.tolist(), cost.sizes.tolist(), strict=True)):
        assert allowed(count, size, budget.divisor), (count, size)
        if count < size:
            more = counts.clone()
            more[k] = min(count + budget.divisor, size)
            assert float(cost.form(more.double() / cost.sizes.double())) > limit - 1


@given(
    st.integers(1, 8),
    st.integers(0, 10_000),
    st.floats(0.02, 1.0),
    st.sampled_from([1, 2, 8]),
    st.floats(0.0, 0.5),
)
def test_rounding_on_random_costs(
    k: int, seed: int, ratio: float, divisor: int, floor: float
) -> None:
    cost = random_cost(k, seed)
    budget = Budget(macs=ratio, divisor=divisor, floors={"*": floor})
    try:
        budget.check(cost)
    except BudgetError:
        assume(False)
    alpha = torch.rand(k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    given_alpha = alpha.clone()
    assert_tight(round_to_channels(alpha, cost, budget), cost, budget)
    torch.testing.assert_close(alpha, given_alpha, rtol=0, atol=0)


@pytest.mark.parametrize("resource", ["macs", "params"])
@pytest.mark.parametrize("divisor", [1, 8])
@pytest.mark.parametrize("ratio", [0.9, 0.5, 0.25])
def test_rounding_on_resnet20(resource: str, divisor: int, ratio: float) -> None:
    cost = Cost.of(traced("resnet20"), resource)  # type: ignore[arg-type]
    budget = Budget(**{resource: ratio}, divisor=divisor, floors={"conv1": 0.5})  # type: ignore[arg-type]
    for seed in range(3):
        alpha = torch.rand(12, generator=torch.Generator().manual_seed(seed))
        counts = round_to_channels(alpha, cost, budget)
        assert_tight(counts, cost, budget)
        assert counts[0] >= 8


@pytest.mark.parametrize("toy", TOYS[:8], ids=lambda t: t.name)
def test_rounding_on_toys(toy) -> None:  # type: ignore[no-untyped-def]
    cost = Cost.of(trace(toy.build(), torch.randn(1, *toy.shape)), "macs")
    budget = Budget(macs=0.6)
    assert_tight(round_to_channels(torch.rand(len(cost.sizes)), cost, budget), cost, budget)


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


def test_dense_budget_keeps_everything() -> None:
    cost = Cost.of(traced("resnet8"), "params")
    counts = round_to_channels(torch.full((6,), 0.1), cost, Budget(params=1.0))
    assert counts.tolist() == cost.sizes.tolist()
