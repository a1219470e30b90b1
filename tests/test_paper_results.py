"""The paper's numbers agree with each other, and stand beside what they are comparable with."""

import csv
import io

import pytest
from problems_runs import some_record
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
from dsa_core.lab.report import as_csv, as_markdown


def found(model="resnet20", dataset="cifar10", method="dsa", resource="macs", ratio=0.5):
    return paper_result(model, dataset, method, resource=resource, ratio=ratio)


def test_drops_are_what_the_dense_network_had_more():
    own = [r for r in RESULTS if not r.quoted and r.drop is not None]
    assert len(own) == 2 * 3 * 3  # two networks, three budgets, three methods that were run there
    for r in own:
        assert BASE[r.model] - r.accuracy == pytest.approx(r.drop, abs=0.0101)  # rounded there


def test_missed_is_what_lies_above_the_budget():
    for r in RESULTS:
        if not r.quoted:
            assert r.missed == (r.reached > r.asked + 1e-9)


def test_nothing_stands_there_twice():
    assert len({(r.model, r.method, r.asked) for r in RESULTS}) == len(RESULTS)
    assert {r.model for r in RESULTS} <= set(models.names())


def test_a_figure_stands_beside_the_same_network_data_method_and_budget():
    assert shown(found()) == "91.38 at 49.7"
    assert shown(found(ratio=1 / 3)) == shown(found(ratio=0.333)) == "90.24 at 32.5"
    assert shown(found("resnet56", ratio=0.75)) == "93.08 at 70.7"
    assert shown(found(method="ssl")) == "89.78 at 51.8 MISSED"
    assert shown(found("resnet56", method="amc")) == "91.90 at 50.0*"


@pytest.mark.parametrize(
    "other",
    [
        {"model": "resnet8"},
        {"dataset": "cifar100"},
        {"method": "uniform"},  # the paper has no such row
        {"resource": "params"},
        {"ratio": 0.25},
        {"ratio": 0.49},
    ],
)
def test_and_beside_nothing_else(other):
    assert found(**other) is None
    assert shown(found(**other)) == ""


def row_of(record) -> dict[str, str]:
    (row,) = csv.DictReader(io.StringIO(as_csv([record])))
    return row


def test_the_report_has_the_column_only_where_a_row_has_a_figure():
    assert row_of(some_record())["paper"] == "91.38 at 49.7"
    assert "paper" not in row_of(some_record(method="uniform"))
    both = as_markdown([some_record(), some_record(method="uniform", series="1")])
    assert "| 91.38 at 49.7 |" in both
    assert "arXiv:2004.02164" in both
    assert "arXiv" not in as_markdown([some_record(method="uniform")])


def test_networks_of_ours_that_stand_for_the_papers():
    assert nearest_result("resnet20_a", "dsa", ratio=0.5) == found()
    assert nearest_result("resnet56", "dsa", ratio=1 / 3) == found("resnet56", ratio=1 / 3)
    assert nearest_result("resnet20_a", "uniform", ratio=0.5) is None
    assert set(NEAREST) <= set(models.names())
    assert set(NEAREST.values()) <= set(BASE)


def test_at_least_so_much_faster_is_the_smaller_ratio_of_hours():
    assert min(theirs / ours for ours, theirs in GPU_HOURS.values()) == FASTER


def test_the_orders_name_each_group_once_and_agree_about_as_printed():
    for order in ORDERS.values():
        assert sorted(order) == list(GROUPS)
    places = {who: [order.index(g) for g in GROUPS] for who, order in ORDERS.items()}
    for who, printed in SPEARMAN.items():
        assert spearmanr(places[who], places["sensitivity"])[0] == pytest.approx(printed, abs=0.1)


def test_on_imagenet_dsa_loses_least_at_each_budget():
    for dsa in (r for r in IMAGENET if r.method == "dsa"):
        rivals = [r for r in IMAGENET if (r.model, r.asked) == (dsa.model, dsa.asked)]
        assert min(rivals, key=lambda r: r.top1_drop) is dsa
    assert {r.model for r in IMAGENET} <= set(models.names(torchvision=True))
