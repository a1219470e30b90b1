"""Plots of transport show what they were given."""

import numpy as np
import pytest
import torch
from course.figures.transport import decay_figure, density_figure, masks_figure, plan_figure


def test_a_plan_is_stacked_channel_by_channel() -> None:
    plan = torch.tensor([[0.3, 0.2], [0.01, 0.49]])
    figure = plan_figure(torch.tensor([0.25, 0.75]), plan)
    axes = figure.axes[0]
    widths = np.array([bar.get_width() for bar in axes.patches])
    np.testing.assert_allclose(widths, [0.3, 0.01, 0.2, 0.49], rtol=1e-6)  # bin by bin
    np.testing.assert_allclose([bar.get_x() for bar in axes.patches], [0, 0, 0.3, 0.01], rtol=1e-6)
    assert [t.get_text() for t in axes.texts] == ["0.300", "0.200", "0.490"]  # 0.01 has no room
    names = [t.get_text() for t in figure.legends[0].get_texts()]
    assert names == ["dropped: 0.31 in all", "kept: 0.69 in all"]
    rows = [t.get_text() for t in axes.get_yticklabels()]
    assert rows == ["channel 1: s = 0.25", "channel 2: s = 0.75"]
    assert axes.yaxis_inverted()


def test_masks_are_drawn_in_the_order_of_the_scores() -> None:
    masks = {"a": torch.tensor([0.9, 0.1, 0.5]), "b": torch.tensor([1.0, 0.0, 0.5])}
    axes = masks_figure(torch.tensor([3.0, 1.0, 2.0]), masks).axes[0]
    np.testing.assert_allclose(
        axes.lines[0].get_xydata(), [[1, 0.1], [2, 0.5], [3, 0.9]], rtol=1e-6
    )
    np.testing.assert_allclose(axes.lines[1].get_ydata(), [0, 0.5, 1])
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["a", "b"]


def test_a_decay_has_two_logarithmic_axes_and_dots_on_a_line() -> None:
    figure = decay_figure([1, 10, 400], {"first": [4.0, 1.0, 0.1], "second": [4.1, 1.0, 0.1]})
    axes = figure.axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    first, second = axes.lines
    np.testing.assert_allclose(first.get_xydata(), [[1, 4.0], [10, 1.0], [400, 0.1]])
    np.testing.assert_allclose(second.get_ydata(), [4.1, 1.0, 0.1])
    assert (first.get_linestyle(), second.get_linestyle()) == ("-", "None")
    assert second.get_marker() == "o"
    assert "channels² (log)" in axes.get_ylabel()
    assert decay_figure([1, 9], {"little": [2.0, 1.0]}).axes[0].get_yscale() == "linear"


def test_densities_are_percentages_from_the_top() -> None:
    axes = density_figure({"conv1.weight": 0.25, "linear.weight": 0.5}, asked=0.3).axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([25, 50])
    assert axes.yaxis_inverted()
    assert list(axes.lines[0].get_xdata()) == pytest.approx([30, 30])
    assert axes.get_legend().get_texts()[0].get_text() == "asked: 30% of all"
    assert "%" in axes.get_xlabel()
