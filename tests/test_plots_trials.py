"""Pictures of trials: what is drawn is what was given."""

import numpy as np
from course.figures.trials import episodes_figure, shrink_figure, trials_figure


def test_trials_are_points_in_their_order_and_the_budget_is_a_band() -> None:
    trials = [(1.0, 0.9), (4.0, 0.3), (2.0, 0.495)]
    figure = trials_figure({"SSL": trials, "MorphNet": [(3.0, 0.6)]}, 0.5, tolerance=0.1)
    first, second = figure.axes
    line, points = first.lines
    np.testing.assert_allclose(points.get_xydata(), trials)
    np.testing.assert_allclose(line.get_xydata(), sorted(trials))
    assert [t.get_text() for t in first.texts] == ["1", "2", "3"]
    band = first.patches[0].get_bbox()
    np.testing.assert_allclose([band.y0, band.y1], [0.45, 0.5])
    assert first.get_xscale() == "log"
    assert [t.get_text() for t in first.get_xticklabels()] == ["1", "1.6", "2.5", "4"]
    assert first.get_xlabel() == "SSL: strength λ of the penalty"
    assert first.get_ylabel() == "MACs left, of the dense network"
    np.testing.assert_allclose(second.lines[1].get_xydata(), [(3.0, 0.6)])


def test_episodes_and_the_best_so_far() -> None:
    (axes,) = episodes_figure([3.0, 1.0, 2.0, 0.5], random_episodes=2).axes
    drawn, agent, best = axes.lines
    np.testing.assert_allclose(drawn.get_xydata(), [[1, 3.0], [2, 1.0]])
    np.testing.assert_allclose(agent.get_xydata(), [[3, 2.0], [4, 0.5]])
    np.testing.assert_allclose(best.get_ydata(), [3.0, 1.0, 1.0, 0.5])


def test_what_shrinks_and_what_it_costs() -> None:
    weights = {"first": [[0.9, 0.2], [0.5, 0.0]], "second": [[0.3], [0.1]]}
    left, right = shrink_figure([0.0, 0.4], weights, [1.0, 0.6], 0.5, tolerance=0.1).axes
    drawn = [line.get_ydata().tolist() for line in left.lines]
    assert drawn == [[0.9, 0.5], [0.2, 0.0], [0.3, 0.1]]
    colours = [line.get_color() for line in left.lines]
    assert colours[0] == colours[1] != colours[2]
    assert [t.get_text() for t in left.get_legend().get_texts()] == ["first", "second"]
    (steps,) = right.lines
    assert (steps.get_xdata().tolist(), steps.get_ydata().tolist()) == ([0.0, 0.4], [1.0, 0.6])
    assert steps.get_drawstyle() == "steps-post"
    band = right.patches[0].get_bbox()
    np.testing.assert_allclose([band.y0, band.y1], [0.45, 0.5])
