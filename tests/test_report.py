"""The table: a row for each series of seeds, with mean and sample standard deviation."""

import csv
import io
import statistics

import pytest
from problems_runs import ACCURACIES, some_record, three_seeds
from rich.console import Console
from typer.testing import CliRunner

from dsa_core.errors import ConfigError
from dsa_core.lab.cli import app
from dsa_core.lab.record import Scores
from dsa_core.lab.record_files import write_record
from dsa_core.lab.report import (
    BEGIN,
    END,
    TABLES,
    as_csv,
    as_markdown,
    as_table,
    cells,
    markdown,
    put_into,
    rows_of,
)


def lines(records, table="results") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(as_csv(records, table))))


def row_of(records) -> dict[str, str]:
    (row,) = lines(records)
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
        "CPU s": "-",
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


def test_latency_and_cpu_time_stand_beside_the_macs():
    spent = [
        {"dense": 100.0, "search": 40.0, "fine_tune": 20.0},
        {"search": 44.0, "fine_tune": 20.0},
    ]
    timed = [some_record(processor_seconds=s, seed=i) for i, s in enumerate(spent)]
    for table in ("status", "cost"):
        (row,) = lines(timed, table)
        assert row["CPU s"] == "62 ± 3"  # without the dense training; (2 ** 2 + 2 ** 2) ** .5
        assert row["latency %"] == "60 ± 0"
    (row,) = lines([*timed, some_record(seed=2)], "status")
    assert row["CPU s"] == "-"  # one of them is not known


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
    order = rows_of(records)[["asked %", "method"]].to_numpy().tolist()
    assert order == [[f"{n} macs", m] for n in (75, 50, 25) for m in ("dsa", "uniform")]
    apart = [some_record(series="a"), some_record(series="b", seed=1)]
    assert len(rows_of(apart)) == 2
    assert len(rows_of([some_record(divisor=8, series=""), some_record(series="")])) == 2


def test_what_else_was_asked():
    assert row_of([some_record(divisor=8)])["asked %"] == "50 macs, in 8s"
    assert row_of([some_record(floors={"*": 0.1})])["asked %"] == "50 macs, floors"


def test_markdown():
    head, rule, row, empty, caption = as_markdown([some_record()]).splitlines()
    assert head == "| " + " | ".join(TABLES["results"]) + " |"
    assert rule == "| " + " | ".join(["---"] * len(TABLES["results"])) + " |"
    assert row.count("|") == len(TABLES["results"]) + 1
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
    shown_lines = text.splitlines()
    assert max(map(len, shown_lines)) <= width
    for value in ("resnet20", "uniform", "88.00", "50.000", "masked loss"):
        assert value in text  # whole, not folded
    accuracies = [line for line in shown_lines if "88.00" in line]
    assert len(accuracies) == (2 if width == 220 else 1)
    assert (shown_lines[1].split()[:2] == ["network", "data"]) == (width == 220)


def costly(method: str, search: float, **changes):
    seconds = {"dense": 100.0, "search": search, "fine_tune": 25.0}
    changes = {"series": method} | changes
    return some_record(method=method, seconds=seconds, **changes)


def test_costs_are_compared_with_dsa_at_the_same_budget():
    rows = lines(
        [
            costly("dsa", 50.0),
            costly("dsa", 75.0, seed=1),
            costly("ssl", 250.0, trials=5, epochs={"dense": 15, "search": 20, "fine_tune": 4}),
            costly("ssl", 30.0, asked_ratio=0.25),
        ],
        "cost",
    )
    found = {(row["method"], row["asked %"]): row for row in rows}
    ssl = found["ssl", "50 macs"]
    assert (ssl["trials"], ssl["search epochs"], ssl["search s"]) == ("5.0", "20", "250")
    assert ssl["search x DSA"] == "4.00"  # 250 / mean(50, 75)
    assert ssl["total x DSA"] == f"{375 / 187.5:.2f}"
    assert found["dsa", "50 macs"]["search x DSA"] == "1.00"
    assert found["ssl", "25 macs"]["total x DSA"] == "-"  # no DSA there


def test_seconds_of_different_devices_are_not_compared():
    (row, _) = lines([costly("amc", 50.0, device="GPU"), costly("dsa", 50.0)], "cost")
    assert (row["method"], row["search x DSA"]) == ("amc", "-")


def test_dsa_is_its_own_measure_and_two_series_of_it_are_none():
    first, second = costly("dsa", 10.0, series="a"), costly("dsa", 20.0, series="b")
    other = costly("uniform", 5.0)
    assert [row["search x DSA"] for row in lines([first, other], "cost")] == ["1.00", "0.50"]
    assert [row["search x DSA"] for row in lines([first, second, other], "cost")] == [
        "1.00",
        "1.00",
        "-",
    ]


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


def test_a_table_as_markdown():
    assert markdown([["a", "b"], ["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_an_overview_has_a_line_for_each_method_and_a_column_for_each_budget():
    other = some_record(model="resnet110", method="uniform", asked_ratio=0.25, budget_met=False)
    uniform, dsa = lines(
        [*three_seeds(), some_record(asked_ratio=0.75, series="q"), other], "overview"
    )
    budgets = {"asked 75 macs": "88.00 (1)", "asked 50 macs": "88.00 ± 2.00 (3)"}
    words = {"network": "resnet20", "data": "cifar10", "preset": "cpu-short", "method": "dsa"}
    assert dsa == words | {"dense": "90.75"} | budgets | {"asked 25 macs": ""}
    # dense: (90 + 91 + 92 + 90) / 4 = 90.75
    assert list(dsa)[-3:] == ["asked 75 macs", "asked 50 macs", "asked 25 macs"]
    assert (uniform["method"], uniform["asked 25 macs"]) == ("uniform", "88.00 (1)+")
    assert uniform["asked 50 macs"] == ""


def test_an_overview_never_averages_different_settings():
    found = lines([some_record(series="a"), some_record(series="b", seed=1)], "overview")
    assert [line["asked 50 macs"] for line in found] == ["88.00 (1)", "88.00 (1)"]


def test_an_overview_of_a_search_from_random_weights():
    scores = Scores(dense=None, pruned=0.7, fine_tuned=0.88, masked_loss=0.5)
    fresh = some_record(scores=scores, asked_ratio=0.25)
    assert (
        lines([fresh], "overview")[0]["dense"]
        == lines([fresh, some_record()], "overview")[0]["dense"]
        == "-"
    )
    text = as_markdown([some_record()], "overview")
    assert "Test accuracy in % after fine-tuning" in text


def test_a_budget_of_several_resources_has_a_row_of_its_own():
    both = some_record(also_asked={"params": 0.4}, series="99")
    lines = cells([some_record(), both, some_record(method="uniform", series="2")], "cost")
    column = lines[0].index("asked %")
    assert [line[column] for line in lines[1:]] == ["50 macs", "50 macs + 40 params", "50 macs"]
    times = lines[0].index("search x DSA")
    assert lines[3][times] == "1.00"  # against the one row of DSA with the same budget
