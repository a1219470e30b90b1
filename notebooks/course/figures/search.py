"""How a search went: loss, cost, keep ratios and prices over the weight steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from dsa_core.errors import ConfigError
from dsa_core.lab.plots.style import COLOURS, DENSE, blank_figure, open_axes

COLUMNS = ("step", "budget", "cost", "price", "price_spread", "keep_ratios")
INK = "#333333"


def search_figure(history: Mapping[str, Any]) -> Figure:
    """Four panels of one search: loss, cost and budget, keep ratios, price of a MAC.

    Args:
        history: what `dsa run` writes as `history.json`: groups (names), and updates, a dict of
            columns (see `dsa_core.Update`); and epochs, for the loss of a search that takes the
            gradient from its training.

    Raises:
        ConfigError: a column is missing, or there is no update to draw.
    """
    updates = history.get("updates", {})
    missing = [name for name in COLUMNS if name not in updates]
    if missing or not updates["step"]:
        raise ConfigError(
            f"this history has no {', '.join(missing) or 'updates'}: is it the history.json of a "
            "run that searched?"
        )
    figure = blank_figure(8.0, 6.0)
    axes = figure.subplots(2, 2, sharex=True)
    draw_loss(axes[0, 0], history)
    draw_cost(axes[0, 1], updates)
    draw_ratios(axes[1, 0], updates, history["groups"])
    draw_price(axes[1, 1], updates)
    for panel in axes.flat:
        open_axes(panel)
    for panel in axes[1]:
        panel.set_xlabel("weight steps")
    return figure


def draw_loss(axes: Axes, history: Mapping[str, Any]) -> None:
    """Draw the held-out loss of every update; without one, the training loss of every epoch."""
    updates = history["updates"]
    held_out = updates.get("loss") or [None] * len(updates["step"])
    losses = pd.Series(held_out, index=updates["step"], dtype=float).dropna()
    if losses.empty:
        draw_training_loss(axes, updates["step"][-1], history.get("epochs", []))
        return
    axes.set_ylabel("validation loss under masks")
    axes.plot(losses, ".", color=DENSE, markersize=3, label="one batch")
    axes.plot(smoothed(losses), color=COLOURS[0], label="running mean")
    axes.legend(frameon=False, fontsize=8)


def draw_training_loss(axes: Axes, last: int, epochs: Sequence[Mapping[str, float]]) -> None:
    """Draw the mean training loss under masks over the steps of each epoch."""
    axes.set_ylabel("training loss under masks")
    if not epochs:
        axes.text(0.5, 0.5, "no loss was noted", ha="center", transform=axes.transAxes)
        return
    ends = [last * n / len(epochs) for n in range(len(epochs) + 1)]
    axes.stairs([epoch["train_loss"] for epoch in epochs], ends, color=COLOURS[0], baseline=None)


def draw_cost(axes: Axes, updates: Mapping[str, Sequence[Any]]) -> None:
    """Draw the relaxed cost upon the budget that was asked for at each moment."""
    axes.plot(updates["step"], updates["budget"], color=COLOURS[1], linewidth=5, label="budget")
    axes.plot(updates["step"], updates["cost"], color=COLOURS[0], linewidth=1.5, label="cost")
    axes.set_ylabel("part of the dense cost")
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(frameon=False, fontsize=8)


def draw_ratios(axes: Axes, updates: Mapping[str, Sequence[Any]], groups: Sequence[str]) -> None:
    """Draw the keep ratio of every group; many groups are coloured by their depth."""
    for k, (name, colour) in enumerate(zip(groups, group_colours(len(groups)), strict=True)):
        path = [ratios[k] for ratios in updates["keep_ratios"]]
        axes.plot(updates["step"], path, color=colour, linewidth=1.5, label=name)
    axes.set_ylabel("keep ratio")
    axes.set_ylim(0, 1.03)
    handles, names = axes.get_legend_handles_labels()
    if len(groups) > len(COLOURS):  # first, middle and last stand for the scale of colours
        places = (0, len(groups) // 2, len(groups) - 1)
        handles, names = [handles[i] for i in places], [names[i] for i in places]
    axes.legend(handles, names, frameon=False, fontsize=7)


def draw_price(axes: Axes, updates: Mapping[str, Sequence[Any]]) -> None:
    """Draw the mean price and, as a band, its spread over the groups; both smoothed."""
    mean, spread = smoothed(updates["price"]), smoothed(updates["price_spread"])
    axes.fill_between(
        updates["step"], mean - spread, mean + spread, color=COLOURS[4], alpha=0.35, linewidth=0,
        label="spread over groups",
    )  # fmt: skip
    axes.plot(updates["step"], mean, color=COLOURS[0], label="mean price")
    axes.axhline(0.0, color=INK, linewidth=0.6)
    axes.set_ylabel("price: loss per log cost")
    axes.legend(frameon=False, fontsize=8)


def group_colours(n: int) -> list[Any]:
    """One colour for each of n groups: told apart if few, by depth (dark to light) if many."""
    if n <= len(COLOURS):
        return list(COLOURS[:n])
    return [colormaps["viridis"](0.95 * k / (n - 1)) for k in range(n)]


def smoothed(values: Sequence[float | None]) -> pd.Series:
    """Exponential average with bias correction: m_t = sum_i .9^(t-i) v_i / sum_i .9^(t-i).

    Values that are missing (null and NaN) are skipped; the average stays as it was.
    """
    return pd.Series(values, dtype=float).ewm(alpha=0.1, ignore_na=True).mean()
