"""The curves of a search: what is drawn is what the history holds."""

import math
from typing import Any

import numpy as np
import pytest
from course.figures.search import group_colours, search_figure, smoothed

from dsa_core.errors import ConfigError
from dsa_core.lab.plots import COLOURS


def history(groups: int = 2, loss: list[float | None] | None = None) -> dict[str, Any]:
    ratios = [[1.0 - 0.1 * t - 0.01 * k for k in range(groups)] for t in range(3)]
    updates = {
        "step": [10, 12, 14],
        "budget": [1.0, 0.7, 0.5],
        "cost": [0.99, 0.7, 0.5],
        "loss": loss or [0.9, 0.5, 0.4],
        "price": [-0.1, -0.2, -0.3],
        "price_spread": [0.0, 0.1, 0.2],
        "sharpness": [5.0, 6.0, 7.0],
        "keep_ratios": ratios,
    }
    return {"groups": [f"g{k}" for k in range(groups)], "updates": updates}


def panels(given: dict[str, Any]) -> dict[str, Any]:
    return {axes.get_ylabel(): axes for axes in search_figure(given).axes}


def test_four_panels_hold_loss_cost_ratios_and_price() -> None:
    drawn = panels(history())
    assert list(drawn) == [
        "validation loss under masks", "part of the dense cost", "keep ratio",
        "price: loss per log cost",
    ]  # fmt: skip
    budget, cost = drawn["part of the dense cost"].lines
    np.testing.assert_allclose(budget.get_xydata(), [[10, 1.0], [12, 0.7], [14, 0.5]])
    np.testing.assert_allclose(cost.get_ydata(), [0.99, 0.7, 0.5])
    first, second = drawn["keep ratio"].lines
    np.testing.assert_allclose(first.get_ydata(), [1.0, 0.9, 0.8])
    np.testing.assert_allclose(second.get_ydata(), [0.99, 0.89, 0.79])
    assert drawn["keep ratio"].get_xlabel() == "weight steps"
    texts = [t.get_text() for t in drawn["keep ratio"].get_legend().get_texts()]
    assert texts == ["g0", "g1"]


def test_the_band_of_prices_is_the_smoothed_spread() -> None:
    axes = panels(history())["price: loss per log cost"]
    mean, spread = smoothed([-0.1, -0.2, -0.3]), smoothed([0.0, 0.1, 0.2])
    corners = axes.collections[0].get_paths()[0].vertices
    assert corners[:, 1].min() == pytest.approx(mean[2] - spread[2])
    assert corners[:, 1].max() == pytest.approx((mean + spread).max())


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_without_held_out_batches_the_training_loss_is_drawn(nothing: float | None) -> None:
    given = history(loss=[nothing] * 3)
    axes = panels(given)["training loss under masks"]
    assert "no loss" in axes.texts[0].get_text()
    del given["updates"]["loss"]
    given["epochs"] = [{"train_loss": 0.8}, {"train_loss": 0.6}]
    steps = panels(given)["training loss under masks"].patches[0].get_data()
    np.testing.assert_allclose(steps.values, [0.8, 0.6])
    np.testing.assert_allclose(steps.edges, [0, 7, 14])
    partly = panels(history(loss=[nothing, 0.5, 0.4]))["validation loss under masks"]
    np.testing.assert_allclose(partly.lines[0].get_xydata(), [[12, 0.5], [14, 0.4]])


def test_many_groups_are_coloured_by_depth_and_three_are_named() -> None:
    axes = panels(history(groups=30))["keep ratio"]
    assert len(axes.lines) == 30
    texts = [t.get_text() for t in axes.get_legend().get_texts()]
    assert texts == ["g0", "g15", "g29"]
    assert len({tuple(c) for c in group_colours(30)}) == 30
    assert group_colours(3) == list(COLOURS[:3])


@pytest.mark.parametrize("broken", [{}, {"updates": {}, "groups": []}])
def test_a_history_without_updates_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"history\.json"):
        search_figure(broken)


def test_a_missing_column_is_named() -> None:
    given = history()
    del given["updates"]["price"]
    with pytest.raises(ConfigError, match="no price"):
        search_figure(given)


def test_the_running_mean_is_corrected_for_its_start() -> None:
    """m_2 = (.9 * 4 + 1 * 1) / 1.9; what is no number is skipped."""
    found = smoothed([None, 4.0, math.nan, 1.0]).tolist()
    assert found == pytest.approx([math.nan, 4.0, 4.0, 4.6 / 1.9], nan_ok=True)
