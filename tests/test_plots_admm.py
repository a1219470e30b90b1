"""Plots of allocation under a budget show what they were given."""

import numpy as np
import pytest
import torch
from course.figures.admm import landscape, landscape_figure

from dsa_core.errors import ConfigError


def loss(a: torch.Tensor) -> torch.Tensor:
    return 1 / a[0] + 3 / a[1]


def cost(a: torch.Tensor) -> torch.Tensor:
    return a[0] * a[1]


def test_a_landscape_holds_the_first_group_along_axis_0() -> None:
    ground = landscape(loss, cost, lowest=0.5, n=3)
    np.testing.assert_allclose(ground.ratios, [0.5, 0.75, 1.0])
    assert float(ground.loss[0, 2]) == pytest.approx(1 / 0.5 + 3)
    assert float(ground.loss[2, 0]) == pytest.approx(1 + 3 / 0.5)
    assert float(ground.cost[1, 2]) == pytest.approx(0.75)
    for lowest, n in ((0.0, 5), (1.0, 5), (0.5, 1)):
        with pytest.raises(ConfigError, match="lowest"):
            landscape(loss, cost, lowest=lowest, n=n)


def test_level_lines_have_budget_paths_and_optimum() -> None:
    ground = landscape(loss, cost, lowest=0.2, n=12)
    path = torch.tensor([[1.0, 1.0], [0.8, 0.7], [0.6, 0.9]])
    optimum = torch.tensor([0.5, 0.9])
    figure = landscape_figure(ground, 0.45, "title", paths={"z": path}, optimum=optimum)
    axes = figure.axes[0]
    names = [t.get_text() for t in axes.get_legend().get_texts()]
    assert names == ["budget: F = 0.45", "level lines of the loss", "z", "optimum"]
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_allclose(lines["z"].get_xydata(), path)
    np.testing.assert_allclose(lines["optimum"].get_xydata(), [[0.5, 0.9]], rtol=1e-6)
    through = axes.collections[-1].get_paths()[0].vertices  # the level line of the optimum
    assert np.abs(through - optimum.numpy()).max(1).min() < 0.05
    assert "group 1" in axes.get_xlabel()
    assert "group 2" in axes.get_ylabel()


def test_the_budget_curve_has_group_1_across() -> None:
    """F = a1^2 a2 is not symmetric: on F = 0.25 lies (0.5, 1), not (1, 0.5)."""
    ground = landscape(loss, lambda a: a[0] ** 2 * a[1], lowest=0.2, n=81)
    axes = landscape_figure(ground, 0.25, "title").axes[0]
    black = [c for c in axes.collections if len(c.get_edgecolor()) and c.get_linewidth()[0] == 2.2]
    points = np.concatenate([p.vertices for c in black for p in c.get_paths()])
    assert len(points)
    np.testing.assert_allclose(points[:, 0] ** 2 * points[:, 1], 0.25, atol=1e-3)
