"""The table: a row for each series of seeds, with mean and sample standard deviation."""

import csv
import io
import statistics

import numpy as np
import pytest
from problems_runs import some_record
from rich.console import Console
from scipy.stats import ttest_1samp, ttest_ind
from typer.testing import CliRunner

from dsa_core import models
from dsa_core.channels import trace
from dsa_core.cli import app
from dsa_core.errors import ConfigError
from dsa_core.record import Scores, write_record
from dsa_core.report import (
    BEGIN,
    COLUMNS,
    END,
    Estimate,
    as_csv,
    as_markdown,
    as_table,
    beside_paper,
    difference,
    estimate,
    markdown,
    processor_table,
    put_into,
    role_of,
    rows_of,
    select,
    verdict,
)
from dsa_core.sensitivity import role

ACCURACIES = (0.88, 0.90, 0.86)


def three_seeds():
    return [
        some_record(
            seed=i,
            config_hash=str(i),
            scores=Scores(dense=0.9 + 0.01 * i, pruned=0.7, fine_tuned=a, masked_loss=0.5),
            seconds={"dense": 100.0, "search": 50.0 + 10 * i, "fine_tune": 25.0},
        )
        for i, a in enumerate(ACCURACIES)
    ]


def row_of(records) -> dict[str, str]:
    (row,) = csv.DictReader(io.StringIO(as_csv(records)))
    return row


def shown(records, width: int) -> str:
    screen = Console(width=width, file=io.StringIO(), record=True)
    screen.print(as_table(records, width=width))
    return screen.export_text()


def test_one_run():
    assert row_of([some_record()]) == {
        "network": "resnet20",
        "data": "cifar10",
        "preset": "cpu-short",
        "method": "dsa",
        "seeds": "1",
        "asked %": "50 macs",
        "MACs %": "50.00",
        "MACs M": "50.000",
        "params %": "40.00",
        "met": "yes",
        "dense": "90.00",
        "before": "70.00",
        "after": "88.00",
        "paper": "91.38 at 49.7",
        "masked loss": "0.500",
        "ms dense": "20.0",
        "ms pruned": "12.0",
        "search s": "50",
        "total s": "175",
    }


def test_mean_and_spread_over_seeds():
    row = row_of(three_seeds())
    # by hand: mean (88 + 90 + 86) / 3 = 88, deviations 0, 2, -2: sqrt(8 / 2) = 2
    assert row["after"] == "88.00 ± 2.00"
    assert row["dense"] == "91.00 ± 1.00"
    assert row["before"] == "70.00 ± 0.00"
    assert row["search s"] == "60 ± 10"
    assert row["seeds"] == "3"
    assert statistics.stdev(100 * a for a in ACCURACIES) == pytest.approx(2)


def test_a_missed_budget_is_shown():
    met, missed = some_record(), some_record(seed=1, budget_met=False)
    assert row_of([met])["met"] == "yes"
    assert row_of([missed])["met"] == "MISSED"
    assert row_of([met, missed])["met"] == "1 of 2"
    assert "MISSED" in as_markdown([missed])
    assert "MISSED" in shown([missed], 220)


def test_untrained_start_has_no_dense_score():
    scores = Scores(dense=None, pruned=0.7, fine_tuned=0.88, masked_loss=0.5)
    assert row_of([some_record(scores=scores)])["dense"] == "-"


def test_rows_are_in_order_and_different_settings_are_never_averaged():
    records = [
        some_record(method=method, asked_ratio=ratio, series=f"{method}{ratio}")
        for ratio in (0.25, 0.75, 0.5)
        for method in ("uniform", "dsa")
    ]
    order = [(r.first.asked_ratio, r.first.method) for r in rows_of(records)]
    assert order == [(ratio, m) for ratio in (0.75, 0.5, 0.25) for m in ("dsa", "uniform")]
    apart = [some_record(series="a"), some_record(series="b", seed=1)]
    assert len(rows_of(apart)) == 2
    assert len(rows_of([some_record(divisor=8, series=""), some_record(series="")])) == 2


def test_what_else_was_asked():
    assert row_of([some_record(divisor=8)])["asked %"] == "50 macs, in 8s"
    assert row_of([some_record(floors={"*": 0.1})])["asked %"] == "50 macs, floors"


def test_markdown():
    head, rule, row, empty, caption = as_markdown([some_record()]).splitlines()
    assert head == "| " + " | ".join(COLUMNS) + " |"
    assert rule == "| " + " | ".join(["---"] * len(COLUMNS)) + " |"
    assert row.count("|") == len(COLUMNS) + 1
    assert "| 88.00 |" in row
    assert empty == ""
    assert "test accuracy in %" in caption
    assert "128 examples" in caption


def test_csv_is_only_the_table():
    assert as_csv(three_seeds()).count("\n") == 2


@pytest.mark.parametrize("width", [220, 100, 80])
def test_a_narrow_terminal_gets_a_column_for_each_run(width):
    other = some_record(method="uniform", series="other")
    text = shown([some_record(), other], width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    for value in ("resnet20", "uniform", "88.00", "50.000", "masked loss"):
        assert value in text  # whole, not folded
    accuracies = [line for line in lines if "88.00" in line]
    assert len(accuracies) == (2 if width == 220 else 1)
    assert (lines[1].split()[:2] == ["network", "data"]) == (width == 220)


# ------------------------------------------------------------------ what a search cost


def costly(method: str, search: float, **changes):
    seconds = {"dense": 100.0, "search": search, "fine_tune": 25.0}
    return some_record(method=method, series=method, seconds=seconds, **changes)


def cost_rows(records) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(as_csv(records, "cost"))))


def test_costs_are_compared_with_dsa_at_the_same_budget():
    rows = cost_rows(
        [
            costly("dsa", 50.0),
            costly("dsa", 75.0, seed=1),
            costly("ssl", 250.0, trials=5, epochs={"dense": 15, "search": 20, "fine_tune": 4}),
            costly("ssl", 30.0, asked_ratio=0.25),
        ]
    )
    found = {(row["method"], row["asked %"]): row for row in rows}
    ssl = found["ssl", "50 macs"]
    assert (ssl["trials"], ssl["search epochs"], ssl["search s"]) == ("5.0", "20", "250")
    assert ssl["search x DSA"] == "4.00"  # 250 / mean(50, 75)
    assert ssl["total x DSA"] == f"{375 / 187.5:.2f}"
    assert found["dsa", "50 macs"]["search x DSA"] == "1.00"
    assert found["ssl", "25 macs"]["total x DSA"] == "-"  # no DSA there


def test_seconds_of_different_devices_are_not_compared():
    (row, _) = cost_rows([costly("amc", 50.0, device="GPU"), costly("dsa", 50.0)])
    assert (row["method"], row["search x DSA"]) == ("amc", "-")


def test_the_cost_table_says_what_it_shows():
    text = as_markdown([costly("dsa", 50.0)], "cost")
    assert "as a multiple of DSA's mean on the same device" in text
    assert "| search epochs |" in text
    assert "masked loss" not in text
    screen = Console(width=220, file=io.StringIO(), record=True)
    screen.print(as_table([costly("dsa", 50.0)], width=220, table="cost"))
    assert "search x DSA" in screen.export_text()


PAGE = f"before\n{BEGIN}\nold\n{END}\nafter\n"


def test_a_table_is_put_between_the_marks_of_a_page():
    page = put_into(PAGE, "new")
    assert page == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert put_into(page, "new") == page


@pytest.mark.parametrize("page", ["", BEGIN, f"{END}{BEGIN}", PAGE + BEGIN, PAGE + END, END + PAGE])
def test_a_page_without_its_two_marks_is_refused(page):
    with pytest.raises(ConfigError, match="needs one line"):
        put_into(page, "new")


def test_the_command_fills_a_page(tmp_path):
    for record in three_seeds():
        write_record(tmp_path / str(record.seed), record)
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    words = ["report", str(tmp_path), "--columns", "status", "--into", str(page)]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert as_markdown(three_seeds(), "status") in page.read_text()
    assert "old" not in page.read_text()
    found = CliRunner().invoke(app, [*words[:-1], str(tmp_path / "none.md")])
    assert isinstance(found.exception, ConfigError)


def test_the_interval_of_a_mean_is_students():
    found = estimate(ACCURACIES)
    known = ttest_1samp(ACCURACIES, 0).confidence_interval(0.95)
    assert (found.n, found.mean, found.sd) == (3, pytest.approx(0.88), pytest.approx(0.02))
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx(tuple(known))


def test_one_run_has_neither_spread_nor_interval():
    assert estimate([88.0]) == Estimate(88.0, 1)
    assert estimate([88.0]).text == "88.00 (n = 1)"
    assert difference([88.0], [87.0, 86.0]).as_difference == "+1.50 (n = 1)"


def test_the_interval_of_a_difference_is_welchs():
    rng = np.random.default_rng(0)
    for n, m, spread in ((3, 3, 1.0), (2, 5, 4.0), (3, 10, 0.1)):
        a, b = rng.normal(1, spread, n).tolist(), rng.normal(0, 1, m).tolist()
        found, known = difference(a, b), ttest_ind(a, b, equal_var=False)
        ends = tuple(known.confidence_interval(0.95))
        assert (found.mean - found.half, found.mean + found.half) == pytest.approx(ends)


def test_the_interval_of_a_difference_without_spread_is_a_point():
    assert difference([1.0, 1.0], [0.5, 0.5]) == Estimate(0.5, 2, 0.0)
    one_side = difference([1.0, 1.0], [0.4, 0.5, 0.6])  # all error is of the second side
    assert one_side.half == pytest.approx(estimate([0.4, 0.5, 0.6]).half)


def test_as_text():
    assert estimate([1.0, 2.0, 3.0]).text == "2.00 ± 1.00 (n = 3)"
    assert Estimate(-0.5, 3, 0.25).as_difference == "-0.50 [-0.75, -0.25]"


@pytest.mark.parametrize(
    ("found", "more_than", "wanted"),
    [
        (None, 0.0, "no records"),
        (Estimate(5.0, 1), 0.0, "not shown (n = 1)"),
        (Estimate(1.0, 3, 0.9), 0.0, "holds here"),
        (Estimate(1.0, 3, 1.1), 0.0, "not shown (intervals overlap)"),
        (Estimate(-1.0, 3, 0.9), 0.0, "does not hold"),
        (Estimate(1.0, 3, 0.9), 0.5, "not shown (intervals overlap)"),
        (Estimate(1.0, 3, 0.4), 1.5, "does not hold"),
    ],
)
def test_a_claim_is_judged_by_its_interval_alone(found, more_than: float, wanted: str):
    assert verdict(found, more_than=more_than) == wanted


def test_records_of_a_method_and_a_budget():
    third = some_record(asked_ratio=0.333)
    both = [third, some_record(method="ssl")]
    assert select(both, "dsa", 1 / 3) == [third]
    assert select(both, ratio=0.5) == select(both, "ssl") == both[1:]
    assert select(both) == both


def test_the_papers_rows_beside_ours_with_dashes_for_what_is_missing():
    runs = [*three_seeds(), some_record(method="ssl", budget_met=False)]
    head, *lines = beside_paper(runs, "resnet20", ("dsa", "uniform", "ssl"), (0.5, 1 / 3))
    table = {(line[0], line[1]): dict(zip(head[2:], line[2:], strict=True)) for line in lines}
    assert list(table)[:3] == [("50", "dsa"), ("50", "uniform"), ("50", "ssl")]
    assert table["50", "dsa"] == {
        "n": "3",
        "MACs %": "50.0",
        "before": "70.00 ± 0.00",
        "after": "88.00 ± 2.00",
        "drop": "3.00 ± 2.65",  # 2, 1 and 6
        "paper: FLOPs %": "49.7",
        "paper: accuracy": "91.38",
        "paper: drop": "0.79",
    }
    assert set(table["50", "uniform"].values()) == {"-"}
    assert table["50", "ssl"]["MACs %"] == "50.0+"
    assert table["50", "ssl"]["paper: FLOPs %"] == "51.8+"
    assert table["50", "sfp"]["n"] == "-"
    assert table["50", "sfp"]["paper: accuracy"] == "90.83*"
    assert ("33.3", "dsa") in table
    assert ("33.3", "sfp") not in table  # not in the paper either


def timed(method: str, search: float, **changes):
    seconds = {"dense": 0.0, "search": search, "fine_tune": 10.0}
    return some_record(method=method, processor_seconds=seconds, **changes)


def test_processor_seconds_are_compared_on_one_device_only():
    runs = [
        some_record(seconds={"dense": 0.0, "search": 900.0, "fine_tune": 1.0}),  # not compared
        timed("dsa", 40.0, seed=1),
        timed("dsa", 60.0, seed=2),
        timed("amc", 100.0, trials=1),
        timed("ssl", 100.0, device="another", trials=6),
        timed("dtp", 100.0, asked_ratio=0.25),
        some_record(method="uniform"),
    ]
    methods = ("dsa", "amc", "ssl", "dtp", "uniform", "dcss")
    _, *lines = processor_table(runs, methods, (0.5, 0.25))
    assert lines == [
        ["50", "dsa", "3", "1.0", "4", "50 to 900", "2", "50 ± 14", "1.00", "60 ± 14", "1.00"],
        ["50", "amc", "1", "1.0", "4", "50", "1", "100", "2.00", "110", "1.83"],
        ["50", "ssl", "1", "6.0", "4", "50", "1", "100", "-", "110", "-"],
        ["50", "uniform", "1", "1.0", "4", "50", "-", "-", "-", "-", "-"],
        ["25", "dtp", "1", "1.0", "4", "50", "1", "100", "-", "110", "-"],
    ]


def test_a_table_as_markdown():
    assert markdown([["a", "b"], ["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


@pytest.mark.parametrize("name", ["resnet8", "resnet20_a", "resnet18_cifar"])
def test_the_role_in_a_groups_name_is_that_of_the_traced_group(name: str):
    model = models.build(name)
    graph = trace(model, models.example_input(name))
    found = {g.name: role_of(g.name) for g in graph.prunable}
    assert found == {g.name: role(model, graph, g) for g in graph.prunable}
    assert set(found.values()) == {"stem", "shortcut", "strided", "inner"}
