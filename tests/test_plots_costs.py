"""Pictures of costs, times and sensitivity hold the given numbers."""

import numpy as np
import pytest
from course.figures.costs import (
    latency_figure,
    left_over_figure,
    share_figure,
    spread_figure,
    width_figure,
)
from course.figures.sensitivity import ROLE_COLOURS, agreement_figure, groups_figure
from matplotlib.colors import to_hex

from dsa_core.errors import ConfigError
from dsa_core.lab.plots import COLOURS, png


def test_what_is_left_is_drawn_over_the_keep_ratio() -> None:
    axes = left_over_figure([0.5, 1.0], {"MACs": [0.25, 1.0], "channels": [0.5, 1.0]}).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[0.5, 0.25], [1.0, 1.0]])
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["MACs", "channels"]


def test_shares_stand_side_by_side() -> None:
    axes = share_figure(["a", "b"], {"MACs": [0.1, 0.2], "parameters": [0.3, 0.4]}).axes[0]
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert axes.patches[0].get_x() < axes.patches[2].get_x() < axes.patches[1].get_x()
    assert [t.get_text() for t in axes.get_xticklabels()] == ["a", "b"]


def test_each_network_is_a_dot_and_no_dot_hides_its_neighbour() -> None:
    scores = {"random": [0.5, 0.5, 0.7], "other": [0.6]}
    axes = spread_figure(scores, xlabel="accuracy, n = 4", lines={"uniform": 0.65}).axes[0]
    first, second, line = axes.lines
    np.testing.assert_allclose(first.get_xdata(), [0.5, 0.5, 0.7])
    assert len(set(first.get_ydata())) == 3
    np.testing.assert_allclose(second.get_xdata(), [0.6])
    np.testing.assert_allclose(line.get_xdata(), [0.65, 0.65])
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["uniform: 65.0 %"]
    assert axes.get_xlabel() == "accuracy, n = 4"


def test_widths_that_are_multiples_of_8_are_marked() -> None:
    axes = width_figure([7, 8, 9, 16], {"fp32": [1.0, 2.0, 3.0, 4.0]}).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(axes.lines[1].get_xydata(), [[8, 2.0], [16, 4.0]])


def test_macs_and_time_of_a_network_lie_above_each_other() -> None:
    axes = latency_figure({"half": 0.5, "quarter": 0.25}, {"half": 0.9, "quarter": 0.4}).axes[0]
    assert [bar.get_width() for bar in axes.patches[:4]] == pytest.approx([0.5, 0.9, 0.25, 0.4])
    assert [t.get_text() for t in axes.texts] == ["50 %", "90 %", "25 %", "40 %"]
    colours = [to_hex(h.get_facecolor()).upper() for h in axes.get_legend().legend_handles]
    assert colours == list(COLOURS[:2])


def test_groups_are_coloured_by_their_role() -> None:
    rows = {"drop, points": [1.0, 2.0], "keep ratio": [0.5, 0.25]}
    figure = groups_figure(["a", "b"], ["stem", "inner"], rows)
    assert [axes.get_ylabel() for axes in figure.axes] == list(rows)
    bars = figure.axes[1].patches[:2]
    assert [bar.get_height() for bar in bars] == [0.5, 0.25]
    wanted = [ROLE_COLOURS[role].lower() for role in ("stem", "inner")]
    assert [to_hex(bar.get_facecolor()) for bar in bars] == wanted
    legend = figure.axes[0].get_legend()
    assert [t.get_text() for t in legend.get_texts()] == ["stem", "inner"]
    assert [to_hex(h.get_facecolor()) for h in legend.legend_handles] == wanted


@pytest.mark.parametrize(
    ("roles", "row"),
    [(["stem"], [1.0, 2.0]), (["stem", "root"], [1.0, 2.0]), (["stem"] * 2, [1.0])],
)
def test_rows_that_do_not_fit_the_groups_are_refused(roles: list[str], row: list[float]) -> None:
    with pytest.raises(ConfigError, match="2 groups"):
        groups_figure(["a", "b"], roles, {"drop": row})


def test_agreement_names_every_dot() -> None:
    pairs = {"one": ([1.0, 2.0], [3.0, 5.0]), "two": ([0.0, 1.0], [1.0, 0.0])}
    figure = agreement_figure(pairs, ["A", "B"], xlabel="x, points", ylabel="y")
    assert [axes.get_title() for axes in figure.axes] == ["one", "two"]
    np.testing.assert_allclose(figure.axes[0].lines[0].get_xydata(), [[1, 3], [2, 5]])
    assert [t.get_text() for t in figure.axes[1].texts] == ["A", "B"]


def test_values_without_a_logarithm_are_left_out_and_still_drawn_around() -> None:
    pairs = {"some": ([1.0, 0.0], [3.0, 5.0]), "none": ([-1.0, 1.0], [1.0, 0.0])}
    figure = agreement_figure(pairs, ["A", "B"], xlabel="x", ylabel="y", log=True)
    assert (figure.axes[0].get_xscale(), figure.axes[0].get_yscale()) == ("log", "log")
    assert [[t.get_text() for t in axes.texts] for axes in figure.axes] == [["A"], []]
    assert png(figure).startswith(b"\x89PNG")  # an empty logarithmic axis cannot be drawn
