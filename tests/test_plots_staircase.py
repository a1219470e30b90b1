"""Figures of notebook 08 show the numbers they are given."""

import pytest
import torch
from course.figures.images import CLASSES, crops_figure, maps_figure, painted
from course.figures.staircase import (
    budgets_figure,
    choices_figure,
    methods_figure,
    staircase_figure,
)

from dsa_core.errors import ConfigError


def test_the_staircase_is_the_sum_of_its_slabs():
    figure = staircase_figure([0.2, 0.3, 0.5], [1, 2, 4])
    left, right = figure.axes
    assert sorted(p.get_height() for p in left.patches) == [0.2, 0.3, 0.5]
    tops = [max(p.get_y() + p.get_height() for p in right.patches if abs(
        p.get_x() + p.get_width() / 2 - place) < 0.1) for place in (1, 2, 3, 4)]  # fmt: skip
    assert tops == pytest.approx([1.0, 0.8, 0.5, 0.5])
    assert [t.get_text() for t in right.texts] == ["1", "0.8", "0.5", "0.5"]
    assert right.get_ylabel() == "mask"
    with pytest.raises(ConfigError, match="2 for 3"):
        staircase_figure([0.5, 0.5], [1, 2, 4])
    with pytest.raises(ConfigError, match="at most 7"):
        staircase_figure([0.1] * 10, list(range(1, 11)))


def test_choices_mark_what_is_expected():
    figure = choices_figure(
        {"soft": torch.tensor([0.5, 0.25, 0.25]), "firm": torch.tensor([0.0, 1.0, 0.0])},
        [0.25, 0.5, 1.0],
    )
    lines = [float(axes.lines[0].get_xdata()[0]) for axes in figure.axes]
    assert lines == pytest.approx([0.5, 0.5])
    assert [axes.get_title() for axes in figure.axes] == ["soft", "firm"]
    assert [p.get_height() for p in figure.axes[1].patches] == [0, 1, 0]


def test_budgets_and_methods():
    figure = budgets_figure({"admm": [1.0, 0.7, 0.5], "penalty": [1.0, 0.9, 0.8]}, 0.5)
    (axes,) = figure.axes
    assert list(axes.lines[0].get_ydata()) == [1.0, 0.7, 0.5]
    assert list(axes.lines[2].get_ydata()) == [0.5, 0.5]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["admm", "penalty", "budget"]
    figure = methods_figure({"a": [0.5, 0.7], "b": [0.4, 0.4]}, label="mIoU, %", dense=0.8)
    (axes,) = figure.axes
    assert list(axes.lines[0].get_xdata()) == [0.5, 0.7]
    assert list(axes.lines[1].get_xdata()) == pytest.approx([0.6, 0.6])
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b"]
    assert axes.get_xlabel() == "mIoU, %"


def test_label_maps_have_a_colour_a_class_and_white_for_none():
    colours = painted(torch.tensor([[0, 1], [11, 255]], dtype=torch.uint8))
    assert colours.shape == (2, 2, 4)
    assert colours[1, 1].tolist() == [1, 1, 1, 1]
    assert len({tuple(c) for c in colours.reshape(4, 4).tolist()}) == 4
    assert len(set(CLASSES)) == 12
    grey = torch.rand(2, 2)
    assert torch.equal(painted(grey), grey)
    with pytest.raises(ConfigError, match="12 classes, a label is 12"):
        painted(torch.tensor([[12]]))
    figure = maps_figure({"scene": torch.rand(2, 4, 4), "truth": torch.zeros(2, 4, 4).long()})
    assert len(figure.axes) == 4
    assert figure.axes[0].get_title() == "scene"
    with pytest.raises(ConfigError, match=r"as many images, got \[1, 2\]"):
        maps_figure({"a": torch.rand(2, 4, 4), "b": torch.rand(1, 4, 4)})


def test_crops_are_cut_where_they_are_asked():
    image = torch.rand(3, 10, 12)
    figure = crops_figure({"a": image, "b": 2 * image}, [(0, 0), (4, 6)], side=5)
    shown = figure.axes[2].images[0].get_array()  # the second row of the first column
    torch.testing.assert_close(torch.tensor(shown.data), image[:, 4:9, 6:11].permute(1, 2, 0))
    assert float(figure.axes[1].images[0].get_array().max()) <= 1
    with pytest.raises(ConfigError, match="do not fit"):
        crops_figure({"a": image}, [(6, 0)], side=5)
    with pytest.raises(ConfigError, match="do not fit"):
        crops_figure({"a": image, "b": image[:, :5]}, [(0, 0)], side=5)
