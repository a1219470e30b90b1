"""Pictures of allocation under a budget show what they were given."""

import math

import numpy as np
import pytest
import torch
from course.figures.admm import (
    curves_figure,
    landscape,
    landscape_figure,
    matrix_figure,
    penalty_figure,
    price_figure,
)
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from dsa_core.errors import ConfigError
from dsa_core.lab.plots import COLOURS, png


def loss(a: torch.Tensor) -> torch.Tensor:
    return 1 / a[0] + 3 / a[1]


def cost(a: torch.Tensor) -> torch.Tensor:
    return a[0] * a[1]


def labels(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.axes[0].get_legend().get_texts()]


def test_a_landscape_holds_the_first_group_along_axis_0() -> None:
    ground = landscape(loss, cost, lowest=0.5, n=3)
    np.testing.assert_allclose(ground.ratios, [0.5, 0.75, 1.0])
    assert float(ground.loss[0, 2]) == pytest.approx(1 / 0.5 + 3)
    assert float(ground.loss[2, 0]) == pytest.approx(1 + 3 / 0.5)
    assert float(ground.cost[1, 2]) == pytest.approx(0.75)


@pytest.mark.parametrize(("lowest", "n"), [(0.0, 5), (1.0, 5), (0.5, 1)])
def test_a_landscape_refuses_what_is_no_grid(lowest: float, n: int) -> None:
    with pytest.raises(ConfigError, match="lowest"):
        landscape(loss, cost, lowest=lowest, n=n)


def test_level_lines_have_budget_paths_and_optimum() -> None:
    ground = landscape(loss, cost, lowest=0.2, n=12)
    path = torch.tensor([[1.0, 1.0], [0.8, 0.7], [0.6, 0.9]])
    optimum = torch.tensor([0.5, 0.9])
    figure = landscape_figure(ground, 0.45, paths={"z": path}, optimum=optimum)
    axes = figure.axes[0]
    assert labels(figure) == ["budget: F = 0.45", "level lines of the loss", "z", "optimum"]
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_allclose(lines["z"].get_xydata(), path)
    np.testing.assert_allclose(lines["optimum"].get_xydata(), [[0.5, 0.9]], rtol=1e-6)
    assert "group 1" in axes.get_xlabel()
    assert "group 2" in axes.get_ylabel()


def test_the_budget_curve_has_group_1_across() -> None:
    """F = a1^2 a2 is not symmetric: on F = 0.25 lies (0.5, 1), not (1, 0.5)."""
    ground = landscape(loss, lambda a: a[0] ** 2 * a[1], lowest=0.2, n=81)
    axes = landscape_figure(ground, 0.25).axes[0]
    black = [c for c in axes.collections if len(c.get_edgecolor()) and c.get_linewidth()[0] == 2.2]
    points = np.concatenate([p.vertices for c in black for p in c.get_paths()])
    assert len(points)
    np.testing.assert_allclose(points[:, 0] ** 2 * points[:, 1], 0.25, atol=1e-3)


def test_curves_leave_out_what_no_logarithm_has() -> None:
    figure = curves_figure({"dual": [1.0, 0.0, 0.1]}, ylabel="residual", log=True)
    (line,) = figure.axes[0].lines
    assert figure.axes[0].get_yscale() == "log"
    assert math.isnan(line.get_ydata()[1])
    np.testing.assert_allclose(line.get_xdata(), [1, 2, 3])
    plain = curves_figure({"cost": [1.0, 0.5]}, ylabel="cost, of dense", line=0.4)
    assert labels(plain) == ["budget", "cost"]
    np.testing.assert_allclose(plain.axes[0].lines[0].get_ydata(), [0.4, 0.4])
    assert plain.axes[0].get_ylabel() == "cost, of dense"


def test_a_penalty_is_drawn_over_the_logarithm_of_its_weight() -> None:
    figure = penalty_figure([0.1, 1.0, 10.0], {"linear": [0.9, 0.6, 0.2]}, 0.5)
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert labels(figure) == ["budget", "linear"]
    np.testing.assert_allclose(axes.lines[1].get_xydata(), [[0.1, 0.9], [1.0, 0.6], [10.0, 0.2]])


def test_prices_stand_side_by_side_group_after_group() -> None:
    values = {"uniform": [-0.5, 0.1], "dsa": [-0.2, -0.2]}
    figure = price_figure(["a", "b"], values, errors={"uniform": [0.1, 0.2]}, linear_below=0.01)
    axes = figure.axes[0]
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == pytest.approx([-0.5, 0.1, -0.2, -0.2])
    assert axes.patches[0].get_x() < axes.patches[2].get_x() < axes.patches[1].get_x()
    assert [to_hex(axes.patches[i].get_facecolor()).upper() for i in (0, 2)] == list(COLOURS[:2])
    assert [t.get_text() for t in axes.get_xticklabels()] == ["a", "b"]
    assert axes.get_yscale() == "symlog"
    assert "logarithmic" in axes.get_ylabel()
    assert price_figure(["a", "b"], values).axes[0].get_yscale() == "linear"


def test_a_matrix_shows_each_pair_once_and_what_is_paid_alone() -> None:
    """F = 0.2 a0 + 2 * 0.25 a0 a1 + 0.3 a1^2: 20 % alone, 50 % shared, 30 % with itself."""
    Q = torch.tensor([[0.0, 0.25], [0.25, 0.3]], dtype=torch.float64)
    figure = matrix_figure(Q, torch.tensor([0.2, 0.0], dtype=torch.float64), ["a", "b"])
    axes = figure.axes[0]
    shown = axes.images[0].get_array().filled(np.nan)
    np.testing.assert_allclose(shown, [[np.nan, np.nan, 20.0], [50.0, 30.0, np.nan]])
    assert sorted(t.get_text() for t in axes.texts) == ["20.0", "30.0", "50.0"]
    assert png(figure).startswith(b"\x89PNG")
