"""Pictures of the campaign: they show the numbers that they were given."""

import pytest
from course.estimate import Estimate
from course.figures.results import differences_figure, strip_figure
from matplotlib.colors import same_color

from dsa_core.errors import ConfigError

GAPS = {
    "before": {"50 %": Estimate(2.0, 3, 0.5), "25 %": Estimate(4.0, 1)},
    "after": {"50 %": Estimate(1.0, 3, 0.4), "25 %": Estimate(-1.0, 1)},
}
STRIPS = {
    "before": {"random": [80.0, 84.0, 82.0], "dsa": [86.0], "uniform": []},
    "after": {"random": [88.0, 89.0, 87.0], "dsa": [90.0], "uniform": []},
}


def dots(axes):
    return [line for line in axes.lines if line.get_marker() == "o"]


def test_a_panel_for_each_score_and_a_row_for_each_label():
    before, after = differences_figure(GAPS, xlabel="points").axes
    assert [a.get_title() for a in (before, after)] == ["before", "after"]
    assert [t.get_text() for t in before.get_yticklabels()] == ["50 %", "25 %"]
    assert [float(d.get_xdata()[0]) for d in dots(after)] == [1.0, -1.0]
    assert [float(d.get_ydata()[0]) for d in dots(after)] == [0, 1]
    low, high = before.get_ylim()
    assert low > high  # the first row is the upper one


def test_an_interval_where_there_is_one_and_a_hollow_dot_where_not():
    axes, _ = differences_figure(GAPS, xlabel="points").axes
    (bar,) = [c for c in axes.collections if len(c.get_segments())]
    ((left, _), (right, _)) = bar.get_segments()[0]
    assert (left, right) == pytest.approx((1.5, 2.5))
    full, hollow = dots(axes)
    assert same_color(full.get_markerfacecolor(), full.get_color())
    assert same_color(hollow.get_markerfacecolor(), "white")


def test_no_difference_is_marked():
    axes, _ = differences_figure(GAPS, xlabel="points").axes
    (line,) = [each for each in axes.lines if each.get_linestyle() == "--"]
    assert set(line.get_xdata()) == {0}


def test_a_strip_has_every_run_and_the_range_of_the_first_row():
    before, after = strip_figure(STRIPS, xlabel="%", shade=True).axes
    dots = [each.get_offsets()[:, 0].tolist() for each in before.collections]
    assert dots == [[80.0, 84.0, 82.0], [86.0]]
    assert [t.get_text() for t in before.get_yticklabels()] == ["random", "dsa", "uniform"]
    (shade,) = after.patches
    assert (shade.get_x(), shade.get_width()) == (87.0, 2.0)
    means = [x for line in before.lines for x in line.get_xdata() if x == x]
    assert means == [82.0, 86.0]
    assert not strip_figure(STRIPS, xlabel="%").axes[1].patches


@pytest.mark.parametrize("draw", [differences_figure, strip_figure])
@pytest.mark.parametrize("panels", [{}, {"a": {}}, {"a": {"x": []}, "b": {"y": []}}])
def test_nothing_to_draw_and_labels_that_differ_are_refused(draw, panels):
    with pytest.raises(ConfigError, match="labels"):
        draw(panels, xlabel="%")
