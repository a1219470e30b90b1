"""The paper's numbers agree with each other, and stand beside what they are comparable with."""

import pytest
from scipy.stats import spearmanr

from dsa_core.lab import models
from dsa_core.lab.paper_results import (
    BASE,
    FASTER,
    GPU_HOURS,
    GROUPS,
    IMAGENET,
    NEAREST,
    ORDERS,
    RESULTS,
    SPEARMAN,
    nearest_result,
    paper_result,
    shown,
)


def found(model="resnet20", dataset="cifar10", method="dsa", resource="macs", ratio=0.5):
    return paper_result(model, dataset, method, resource=resource, ratio=ratio)


def test_the_numbers_agree_with_each_other():
    own = [r for r in RESULTS if not r.quoted]
    assert all(r.missed == (r.reached > r.asked + 1e-9) for r in own)
    dropped = [r for r in own if r.drop is not None]
    assert len(dropped) == 2 * 3 * 3  # two networks, three budgets, three methods run there
    for r in dropped:
        assert BASE[r.model] - r.accuracy == pytest.approx(r.drop, abs=0.0101)  # rounded there
    assert len({(r.model, r.method, r.asked) for r in RESULTS}) == len(RESULTS)
    assert min(theirs / ours for ours, theirs in GPU_HOURS.values()) == FASTER


def test_the_networks_are_ours():
    assert {r.model for r in RESULTS} == set(BASE) <= set(models.names())
    assert set(NEAREST) <= set(models.names())
    assert set(NEAREST.values()) <= set(BASE)
    assert set(IMAGENET) <= set(models.names(torchvision=True))


def test_a_figure_stands_beside_the_same_network_data_method_and_budget():
    assert shown(found()) == "91.38 at 49.7"
    assert shown(found(ratio=1 / 3)) == shown(found(ratio=0.333)) == "90.24 at 32.5"
    assert shown(found("resnet56", ratio=0.75)) == "93.08 at 70.7"
    assert shown(found(method="ssl")) == "89.78 at 51.8 MISSED"
    assert shown(found("resnet56", method="amc")) == "91.90 at 50.0*"
    assert nearest_result("resnet20_a", "dsa", ratio=0.5) == found()
    assert nearest_result("resnet20_a", "uniform", ratio=0.5) is None


@pytest.mark.parametrize(
    "other",
    [
        {"model": "resnet8"},
        {"dataset": "cifar100"},
        {"method": "uniform"},  # the paper has no such row
        {"resource": "params"},
        {"ratio": 0.49},
    ],
)
def test_and_beside_nothing_else(other):
    assert found(**other) is None
    assert shown(found(**other)) == ""


def test_the_orders_name_each_group_once_and_agree_about_as_printed():
    for order in ORDERS.values():
        assert sorted(order) == list(GROUPS)
    places = {who: [order.index(g) for g in GROUPS] for who, order in ORDERS.items()}
    for who, printed in SPEARMAN.items():
        assert spearmanr(places[who], places["sensitivity"])[0] == pytest.approx(printed, abs=0.1)
