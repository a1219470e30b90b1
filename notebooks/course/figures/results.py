"""What the campaign shows: differences with their intervals, one method among random ones."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from seaborn import pointplot, swarmplot

from course.estimate import Estimate
from dsa_core.errors import ConfigError
from dsa_core.lab.plots.style import COLOURS, DENSE, blank_figure, open_axes

Panel = Mapping[str, Estimate]
Strip = Mapping[str, Sequence[float]]


def differences_figure(panels: Mapping[str, Panel], *, xlabel: str) -> Figure:
    """Differences as dots with their 95 % intervals, a panel for each score, a row for each label.

    A hollow dot has no interval: one of its sides is a single run.

    Args:
        panels: title -> label -> difference, the same labels in every panel.
        xlabel: with unit.

    Raises:
        ConfigError: there is nothing to draw, or the labels differ.
    """
    labels = same_labels(panels)
    figure = blank_figure(8.0, 1.3 + 0.38 * len(labels))
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, found) in zip(every, panels.items(), strict=True):
        draw_differences(axes, found)
        axes.set_title(title, fontsize=10)
    every[0].set_yticks(range(len(labels)), labels)
    every[0].set_ylim(len(labels) - 0.5, -0.5)
    figure.supxlabel(xlabel, fontsize=10)
    return figure


def same_labels(panels: Mapping[str, Mapping[str, object]]) -> list[str]:
    """The labels that all panels share.

    Raises:
        ConfigError: there are none, or they differ.
    """
    first: list[str] = list(next(iter(panels.values()), {}))
    if not first or any(list(panel) != first for panel in panels.values()):
        got = [list(panel) for panel in panels.values()]
        raise ConfigError(f"every panel needs the same labels, at least one; got {got}")
    return first


def draw_differences(axes: Axes, found: Panel) -> None:
    """Draw one panel; the dashed line is no difference."""
    axes.axvline(0, color="#333333", linestyle="--", linewidth=1)
    for place, each in enumerate(found.values()):
        inside = "white" if each.half is None else COLOURS[0]
        axes.errorbar(
            each.mean, place, xerr=each.half, fmt="o", color=COLOURS[0], markerfacecolor=inside,
            markersize=6, capsize=4, linewidth=1.5,
        )  # fmt: skip
    axes.margins(x=0.15)
    axes.grid(axis="x", color=DENSE, linewidth=0.5)
    axes.set_axisbelow(True)
    open_axes(axes)


def strip_figure(
    panels: Mapping[str, Strip],
    *,
    xlabel: str,
    colours: Sequence[str] = ("#666666", *COLOURS),
    shade: bool = False,
    sharex: bool = False,
) -> Figure:
    """Runs as dots, a panel for each score, a row for each label; the bar of a row is its mean.

    Args:
        panels: title -> label -> values, the same labels in every panel.
        xlabel: with unit.
        colours: of the rows.
        shade: the range of the first row through all rows, to hold the others against it.
        sharex: one scale for all panels.

    Raises:
        ConfigError: there is nothing to draw, or the labels differ.
    """
    labels = same_labels(panels)
    figure = blank_figure(max(8.0, 0.8 + 2.8 * len(panels)), 1.3 + 0.42 * len(labels))
    every = figure.subplots(1, len(panels), sharey=True, sharex=sharex, squeeze=False)[0]
    for axes, (title, rows) in zip(every, panels.items(), strict=True):
        first = rows[labels[0]]
        if shade and first:
            axes.axvspan(min(first), max(first), color=DENSE, alpha=0.35, linewidth=0)
        style = {"orient": "h", "palette": list(colours[: len(labels)]), "ax": axes}
        swarmplot(dict(rows), size=6, alpha=0.75, **style)
        pointplot(
            dict(rows), errorbar=None, linestyle="none", marker="|", markersize=20,
            markeredgewidth=2, **style,
        )  # fmt: skip
        axes.set_title(title, fontsize=10)
        axes.margins(x=0.08)
        open_axes(axes)
    figure.supxlabel(xlabel, fontsize=10)
    return figure
