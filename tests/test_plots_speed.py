"""Pictures of speed show what they were given."""

import numpy as np
import pytest
import torch
from course.figures.speed import (
    bar_figure,
    fit_figure,
    promise_figure,
    ragged_figure,
    residual_figure,
    roofline_figure,
)
from matplotlib.colors import to_hex

from dsa_core.lab.plots import COLOURS, png


def test_two_roofs_meet_where_arithmetic_and_memory_take_as_long() -> None:
    dots = {"3x3": [("16", 10.0, 30.0), ("", 40.0, 60.0)], "depthwise": [("dw", 1.0, 2.0)]}
    figure = roofline_figure(dots, peak=80.0, bandwidth=10.0)
    axes = figure.axes[0]
    memory, arithmetic, corner, first, second = axes.lines
    (low, start), (middle, top) = memory.get_xydata()
    assert start == pytest.approx(10 * low)
    assert (middle, top) == pytest.approx((8.0, 80.0))
    np.testing.assert_allclose(arithmetic.get_ydata(), [80, 80])
    assert list(corner.get_xdata()) == [8.0, 8.0]
    np.testing.assert_allclose(first.get_xydata(), [[10, 30], [40, 60]])
    np.testing.assert_allclose(second.get_xydata(), [[1, 2]])
    left, right = axes.get_xlim()
    assert left < 1.0
    assert right > 40.0
    assert {"16", "dw", "memory: 10 GB/s"} <= {t.get_text() for t in axes.texts}
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["3x3", "depthwise"]
    assert png(figure).startswith(b"\x89PNG")


def test_the_promise_is_the_diagonal() -> None:
    macs = {"a": [0.25, 1.0], "b": [0.5, 1.0]}
    axes = promise_figure(macs, {"a": [0.5, 1.0], "b": [0.9, 1.0]}).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[0, 0], [1, 1]])
    np.testing.assert_allclose(axes.lines[1].get_xydata(), [[0.25, 0.5], [1, 1]])
    np.testing.assert_allclose(axes.lines[2].get_xydata(), [[0.5, 0.9], [1, 1]])
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["time = MACs", "a", "b"]


def test_rows_are_ragged_and_sorted() -> None:
    figure = ragged_figure(torch.tensor([0.1, 0.9, 0.2, 0.4, 0.3]), torch.tensor([0, 2, 5]))
    shown = figure.axes[0].images[0].get_array().filled(-1)
    np.testing.assert_allclose(shown, [[0.9, 0.1, -1], [0.4, 0.3, 0.2]], rtol=1e-6)
    assert figure.axes[0].images[0].get_clim() == (0, 1)
    assert png(figure).startswith(b"\x89PNG")


def test_every_segment_has_a_line_and_every_method_a_colour() -> None:
    slow = torch.tensor([[0.5, 0.25], [0.25, 0.125], [0.1, 0.0]])
    figure = residual_figure({"halving": slow, "Newton": slow[:2]})
    axes = figure.axes[0]
    first, second, third, fourth, limit = axes.lines
    np.testing.assert_allclose(second.get_ydata(), [0.25, 0.125, 1e-17], rtol=1e-6)  # not -inf
    assert list(first.get_xdata()) == [1, 2, 3]
    assert list(fourth.get_xdata()) == [1, 2]
    assert [to_hex(line.get_color()).upper() for line in (first, third)] == list(COLOURS[:2])
    assert list(limit.get_ydata()) == [1e-10, 1e-10]
    names = [t.get_text() for t in axes.get_legend().get_texts()]
    assert names == ["halving", "Newton", "found: 1e-10"]
    assert axes.get_yscale() == "log"
    assert axes.get_xlim() == (1, 3)


def test_bars_carry_their_numbers_from_the_top() -> None:
    axes = bar_figure({"slow": 20.0, "fast": 0.5}, xlabel="time, ms").axes[0]
    assert [bar.get_width() for bar in axes.patches] == [20.0, 0.5]
    assert [t.get_text() for t in axes.texts] == ["20", "0.5"]
    assert axes.yaxis_inverted()
    assert (axes.get_xlim()[0], axes.get_xscale()) == (0.0, "linear")  # lengths can be compared
    assert axes.get_xlabel() == "time, ms"


def test_each_clock_has_its_panel_and_its_diagonal() -> None:
    figure = fit_figure({"exact": ([1.0, 2.0], [1.0, 2.0]), "stairs": ([1.0, 3.0], [0.5, 4.0])})
    assert [axes.get_title() for axes in figure.axes] == ["exact", "stairs"]
    diagonal, dots = figure.axes[1].lines
    np.testing.assert_allclose(diagonal.get_xydata(), [[0.5, 0.5], [4, 4]])
    np.testing.assert_allclose(dots.get_xydata(), [[1.0, 0.5], [3.0, 4.0]])
    assert "ms" in figure.axes[0].get_ylabel()
