"""The table: a row for each series of seeds, with mean and sample standard deviation."""

import csv
import io

import pytest
from problems_runs import some_record, three_seeds
from rich.console import Console
from typer.testing import CliRunner

from dsa_core.errors import ConfigError
from dsa_core.lab.cli import app
from dsa_core.lab.record import Scores
from dsa_core.lab.record_files import write_record
from dsa_core.lab.report import (
    BEGIN,
    END,
    as_csv,
    as_markdown,
    as_table,
    caption,
    cells,
    put_into,
)

FROM_RANDOM = Scores(dense=None, pruned=0.7, fine_tuned=0.88, masked_loss=0.5)


def lines(records, table="results") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(as_csv(records, table))))


def row_of(records, table="results") -> dict[str, str]:
    (row,) = lines(records, table)
    return row


def shown(records, width: int, table="results") -> str:
    screen = Console(width=width, file=io.StringIO(), record=True)
    screen.print(as_table(records, width=width, table=table))
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


def test_latency_and_cpu_time_stand_beside_the_macs():
    spent = [
        {"dense": 100.0, "search": 40.0, "fine_tune": 20.0},
        {"search": 44.0, "fine_tune": 20.0},
    ]
    timed = [some_record(processor_seconds=s, seed=i) for i, s in enumerate(spent)]
    for table in ("status", "cost"):
        row = row_of(timed, table)
        assert row["CPU s"] == "62 ± 3"  # without the dense training; (2 ** 2 + 2 ** 2) ** .5
        assert row["latency %"] == "60 ± 0"
    assert row_of([*timed, some_record(seed=2)], "status")["CPU s"] == "-"  # one is not known


def test_what_was_asked_and_whether_it_was_met():
    met, missed = some_record(), some_record(seed=1, budget_met=False)
    assert row_of([missed])["met"] == "MISSED"
    assert row_of([met, missed])["met"] == "1 of 2"
    assert row_of([some_record(divisor=8, floors={"*": 0.1})])["asked %"] == (
        "50 macs, in 8s, floors"
    )
    both = some_record(also_asked={"params": 0.4})
    assert row_of([both])["asked %"] == "50 macs + 40 params"
    for other in (both, some_record(divisor=8), some_record(floors={"*": 0.1})):
        assert "paper" not in row_of([other])  # it asked for less


def test_a_start_from_random_weights_has_no_dense_score():
    fresh = some_record(scores=FROM_RANDOM)
    assert row_of([fresh])["dense"] == "-"
    other = some_record(asked_ratio=0.25)
    assert row_of([fresh, other], "overview")["dense"] == "-"  # a mean over both


def test_rows_are_in_order_and_different_settings_are_never_averaged():
    records = [
        some_record(method=method, asked_ratio=ratio, series=f"{method}{ratio}")
        for ratio in (0.25, 0.75, 0.5)
        for method in ("uniform", "dsa")
    ]
    order = [(row["asked %"], row["method"]) for row in lines(records)]
    assert order == [(f"{n} macs", m) for n in (75, 50, 25) for m in ("dsa", "uniform")]
    apart = [some_record(series="a"), some_record(series="b", seed=1)]
    assert len(lines(apart)) == 2
    assert [line["asked 50 macs"] for line in lines(apart, "overview")] == ["88.00 (1); 60 %"] * 2
    assert len(lines([some_record(divisor=8, series=""), some_record(series="")])) == 2


def test_markdown():
    head, rule, row, empty, told = as_markdown([some_record()]).splitlines()
    names, values = cells([some_record()])
    assert head == "| " + " | ".join(names) + " |"
    assert rule == "| " + " | ".join(["---"] * len(names)) + " |"
    assert row == "| " + " | ".join(values) + " |"
    assert empty == ""
    assert told == caption([some_record()])
    assert "test accuracy in %" in told
    assert "128 examples" in told
    assert "arXiv:2004.02164" in told
    assert "arXiv" not in caption([some_record(method="uniform")])  # the paper has no such row
    mixed = [some_record(), some_record(score_name="PSNR", score_unit="dB")]
    assert "test PSNR in dB or accuracy in % before" in caption(mixed)
    assert "DSA's mean on the same device" in caption([some_record()], "cost")


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
    return some_record(**{"method": method, "seconds": seconds, "series": method} | changes)


def test_costs_are_compared_with_dsa_at_the_same_budget():
    both = {"also_asked": {"params": 0.4}}
    records = [
        costly("dsa", 50.0),
        costly("dsa", 75.0, seed=1),
        costly("ssl", 250.0, trials=5, epochs={"dense": 15, "search": 20, "fine_tune": 4}),
        costly("dsa", 500.0, series="both", **both),
        costly("uniform", 250.0, series="uniform both", **both),
        costly("ssl", 30.0, asked_ratio=0.25),
        costly("amc", 50.0, device="GPU"),
    ]
    rows = {(row["method"], row["asked %"]): row for row in lines(records, "cost")}
    ssl = rows["ssl", "50 macs"]
    assert (ssl["trials"], ssl["search epochs"], ssl["search s"]) == ("5.0", "20", "250")
    assert ssl["search x DSA"] == "4.00"  # 250 / mean(50, 75)
    assert ssl["total x DSA"] == f"{375 / 187.5:.2f}"
    assert rows["dsa", "50 macs"]["search x DSA"] == "1.00"
    assert rows["uniform", "50 macs + 40 params"]["search x DSA"] == "0.50"
    assert rows["ssl", "25 macs"]["total x DSA"] == "-"  # no DSA there
    assert rows["amc", "50 macs"]["search x DSA"] == "-"  # nor on that device
    assert "search x DSA" in shown(records, 220, "cost")
    two = lines([*records[:1], costly("dsa", 20.0, series="b"), costly("ssl", 5.0)], "cost")
    assert [row["search x DSA"] for row in two] == ["1.00", "1.00", "-"]


PAGE = f"before\n{BEGIN}\nold\n{END}\nafter\n"


@pytest.mark.parametrize("page", ["", BEGIN, f"{END}{BEGIN}", PAGE + BEGIN, PAGE + END, END + PAGE])
def test_a_page_without_its_two_marks_is_refused(page):
    with pytest.raises(ConfigError, match="needs one line"):
        put_into(page, "new")


def test_the_command_puts_a_table_between_the_marks_of_a_page(tmp_path):
    for record in three_seeds():
        write_record(tmp_path / str(record.seed), record)
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    words = ["report", str(tmp_path), "--columns", "status", "--into", str(page)]
    for _ in range(2):
        assert CliRunner().invoke(app, words).exit_code == 0
        table = as_markdown(three_seeds(), "status")
        assert page.read_text() == f"before\n{BEGIN}\n\n{table}\n\n{END}\nafter\n"
    found = CliRunner().invoke(app, [*words[:-1], str(tmp_path / "none.md")])
    assert isinstance(found.exception, ConfigError)


def test_an_overview_has_a_line_for_each_method_and_a_column_for_each_budget():
    other = some_record(model="resnet110", method="uniform", asked_ratio=0.25, budget_met=False)
    timed = {"dense": 9.0, "search": 100.0, "fine_tune": 30.0}
    more = some_record(asked_ratio=0.75, series="q", processor_seconds=timed)
    uniform, dsa = lines([*three_seeds(), more, other], "overview")
    most, half = "88.00 (1); 60 %, 130 s", "88.00 ± 2.00 (3); 60 %"
    budgets = {"asked 75 macs": most, "asked 50 macs": half}
    words = {"network": "resnet20", "data": "cifar10", "preset": "cpu-short", "method": "dsa"}
    assert dsa == words | {"dense": "90.75"} | budgets | {"asked 25 macs": ""}
    # dense: (90 + 91 + 92 + 90) / 4 = 90.75
    assert list(dsa)[-3:] == ["asked 75 macs", "asked 50 macs", "asked 25 macs"]
    assert (uniform["method"], uniform["asked 25 macs"]) == ("uniform", "88.00 (1)+; 60 %")
    assert uniform["asked 50 macs"] == ""


def test_seeds_are_of_one_device_and_lines_of_one_start():
    twice = lines([some_record(device=name) for name in ("one", "other")])
    assert [row["seeds"] for row in twice] == ["1", "1"]
    runs = [
        some_record(config={"weights": start}, series=f"{start}{ratio}", asked_ratio=ratio,
                    scores=FROM_RANDOM.model_copy(update={"dense": dense}))
        for ratio in (0.5, 0.25)
        for start, dense in (("a", 0.9), ("b", 0.6))[:: 1 if ratio == 0.5 else -1]
    ]  # fmt: skip
    assert [row["dense"] for row in lines(runs, "overview")] == ["90.00", "60.00"]
