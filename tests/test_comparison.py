"""Our runs beside the paper's rows, and what they cost beside each other."""

import pytest
from course.comparison import (
    after,
    beside,
    beside_paper,
    equal_cost,
    judged,
    lead,
    parts,
    processor_table,
    select,
)
from problems_runs import some_record, three_seeds

from dsa_core.lab.record import Scores


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
        "latency %": "60 ± 0",
        "CPU s": "-",
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


def test_without_a_dense_network_there_is_no_drop():
    fresh = some_record(scores=Scores(pruned=0.7, fine_tuned=0.88, masked_loss=1.0, dense=None))
    head, line, *_ = beside_paper([fresh], "resnet20", ("dsa",), (0.5,))
    row = dict(zip(head, line, strict=True))
    assert (row["n"], row["before"], row["after"], row["drop"]) == ("1", "70.00", "88.00", "-")


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


def test_a_lead_and_its_row_of_the_table():
    rivals = [r.model_copy(update={"method": "uniform"}) for r in three_seeds()]
    found = lead(after, [*three_seeds(), *rivals[:2]], 0.5)
    assert found.mean == pytest.approx(88 - 89)
    row = judged("ahead", found, more_than=-100)
    assert row == ["ahead", found.as_difference, "holds here"]


def test_rivals_of_equal_epochs_or_equal_seconds_against_the_flow_of_most_runs():
    """DSA in 8 epochs and 50 s; a rival as long in epochs, one in seconds, one in neither."""
    eight, more = (
        {"dense": 0, "search": 0, "fine_tune": 8},
        {"dense": 0, "search": 4, "fine_tune": 9},
    )
    runs = [
        *(timed("dsa", 40.0, epochs=eight, seed=seed) for seed in (0, 1)),
        timed("dsa", 10.0, preset="another"),
        timed("uniform", 70.0, epochs=eight),
        timed("dtp", 42.0, epochs=more),
        timed("dcss", 90.0, epochs=more),
        timed("uniform", 40.0, seed=7, preset="another"),  # no seed of DSA's
        timed("ssl", 40.0, trials=3),
        timed("amc", 40.0, epochs=more, precision="bf16"),  # of another processor
    ]
    rows = equal_cost(runs, (0.5, 0.25))
    assert [(theirs[0].method, alike) for _, _, theirs, alike in rows] == [
        ("dtp", "CPU seconds"),
        ("uniform", "epochs"),
    ]
    assert all(len(ours) == 2 for _, ours, _, _ in rows)
    assert beside(*rows[1][1:3])[1:] == ["50 / 80", "60 / 60"]
    assert parts(runs[-4]) == "4+9"
    assert parts(some_record(config={"preset": {"weights_fraction": 0.25}})) == "1+4"
