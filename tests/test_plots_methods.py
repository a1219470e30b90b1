"""Methods side by side: the pictures show the numbers of the records."""

import pytest
from course.figures.methods import methods_of, scores_figure, seconds_figure
from matplotlib.colors import same_color
from problems_runs import some_record

from dsa_core.errors import ConfigError
from dsa_core.lab.plots.style import colour_of
from dsa_core.lab.record import Record, Scores


def run(method: str, ratio: float, score: float, **changes: object) -> Record:
    scores = Scores(dense=0.9, pruned=0.7, fine_tuned=score, masked_loss=0.5)
    return some_record(method=method, asked_ratio=ratio, scores=scores, **changes)


RUNS = [
    run("ssl", 0.5, 0.80),
    run("ssl", 0.5, 0.84, budget_met=False),
    run("dsa", 0.5, 0.88),
    run("ssl", 0.75, 0.86),
    run("dsa", 0.75, 0.89),
]


def test_methods_in_the_order_of_the_records():
    assert methods_of(RUNS) == ["ssl", "dsa"]


def test_a_panel_for_each_budget_and_a_dot_for_each_seed():
    first, second = scores_figure(RUNS).axes
    assert [a.get_title() for a in (first, second)] == [
        "75 % of the MACs asked",
        "50 % of the MACs asked",
    ]
    assert [t.get_text() for t in first.get_yticklabels()] == ["ssl", "dsa"]
    dots = [dot for each in second.collections for dot in each.get_offsets().tolist()]
    assert [x for x, _ in dots] == pytest.approx([80, 84, 88])
    assert [y for _, y in dots] == pytest.approx([0, 0, 1], abs=0.1)
    assert same_color(second.collections[1].get_facecolor()[0][:3], colour_of("dsa"))


def lines(axes, kind: str) -> list[list[list[float]]]:
    """Where the lines of a style or a marker are."""
    found = [each for each in axes.lines if kind in (each.get_marker(), each.get_linestyle())]
    return [each.get_xydata().tolist() for each in found]


def test_a_missed_budget_is_crossed():
    first, second = scores_figure(RUNS).axes
    assert lines(first, "x") == [[]]
    assert lines(second, "x") == [[pytest.approx([84, 0])]]


def test_the_bars_are_means_and_the_line_is_the_dense_network():
    (_, second) = scores_figure(RUNS).axes
    bars = [point for each in lines(second, "|") for point in each if point[0] == point[0]]
    assert bars == [pytest.approx([82, 0]), pytest.approx([88, 1])]
    ((dense, _),) = lines(second, "--")
    assert dense[0] == pytest.approx(90)


def test_a_method_without_a_run_at_a_budget_leaves_its_row_empty():
    first, second = scores_figure([*RUNS, run("amc", 0.5, 0.7)]).axes
    assert sum(len(each.get_offsets()) for each in first.collections) == 2
    assert sum(len(each.get_offsets()) for each in second.collections) == 4
    assert [t.get_text() for t in first.get_yticklabels()] == ["ssl", "dsa", "amc"]


def test_runs_of_two_networks_are_refused():
    with pytest.raises(ConfigError, match="one network"):
        scores_figure([*RUNS, run("dsa", 0.5, 0.9, model="resnet56")])
    with pytest.raises(ConfigError, match="one network"):
        scores_figure([])


def test_seconds_are_stacked_phase_by_phase():
    six = {"dense": 10.0, "search": 60.0, "fine_tune": 5.0}
    runs = [
        run("dsa", 0.5, 0.9, seconds={"dense": 10.0, "search": 20.0, "fine_tune": 4.0}),
        run("dsa", 0.5, 0.9, seconds={"dense": 10.0, "search": 30.0, "fine_tune": 6.0}),
        run("ssl", 0.5, 0.9, seconds=six, trials=6),
        run("ssl", 0.25, 0.9, seconds=six, trials=3),
    ]
    (axes,) = seconds_figure(runs).axes
    bars = [(b.get_x(), b.get_width()) for b in axes.patches]
    assert bars == [(0, 10), (0, 10), (10, 25), (10, 60), (35, 5), (70, 5)]  # dsa and ssl
    assert [t.get_text() for t in axes.texts] == [" 40.0 s", " 75.0 s, 4.5 trials"]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == [
        "dense training",
        "search",
        "fine-tuning",
    ]
    assert axes.get_xlabel() == "seconds, mean of the runs"
