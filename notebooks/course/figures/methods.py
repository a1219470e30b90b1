"""Several methods side by side, from records: what they score, and what they take."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure
from seaborn import pointplot, swarmplot

from dsa_core.errors import ConfigError
from dsa_core.lab.plots.allocation import UNITS
from dsa_core.lab.plots.style import COLOURS, DENSE, blank_figure, colour_of, open_axes
from dsa_core.lab.record import Record
from dsa_core.lab.report import frame

PHASES = {"dense": "dense training", "search": "search", "fine_tune": "fine-tuning"}
PHASE_COLOURS = [DENSE, COLOURS[0], COLOURS[4]]


def methods_of(records: Sequence[Record]) -> list[str]:
    """The methods, each once, in the order of the records."""
    return list(dict.fromkeys(r.method for r in records))


def scores_figure(records: Sequence[Record]) -> Figure:
    """Score after fine-tuning: a panel for each budget, a row for each method, a dot for each seed.

    A crossed dot missed its budget: it is not a smaller network that scores so. The bar is the
    mean of the row, the dashed line that of the dense networks.

    Args:
        records: runs of one network, dataset and preset, in the order in which to draw methods.

    Raises:
        ConfigError: there is no run, or they are of several networks, datasets or presets.
    """
    kinds = {(r.model, r.dataset, r.preset) for r in records}
    if len(kinds) != 1:
        raise ConfigError(f"one figure is of one network, data and preset; got {sorted(kinds)}")
    methods, first = methods_of(records), records[0]
    budgets = dict(list(frame(records).groupby("less")))
    panels = {
        f"{-100 * less:g} % of the {UNITS[first.resource]} asked": {
            method: runs["after"][runs["method"] == method].tolist() for method in methods
        }
        for less, runs in budgets.items()
    }
    xlabel = f"test {first.score_name} in {first.score_unit}"
    colours = [colour_of(method) for method in methods]
    figure = strip_figure(panels, xlabel=xlabel, colours=colours)
    for axes, runs in zip(figure.axes, budgets.values(), strict=True):
        missed = runs[~runs["met"]]
        axes.plot(missed["after"], [methods.index(m) for m in missed["method"]], "kx")
        axes.axvline(runs["dense"].mean(), color="#333333", linestyle="--", linewidth=1)
    return figure


def seconds_figure(records: Sequence[Record]) -> Figure:
    """Where the seconds of each method go: mean over its runs, phase by phase.

    The number behind a bar is the sum, and how many trainings or games the search took if that is
    more than one.

    Args:
        records: runs of one network on one device, in the order in which to draw methods.
    """
    runs = pd.DataFrame([{"method": r.method, "trials": r.trials, **r.seconds} for r in records])
    means = runs.groupby("method", sort=False).mean()
    phases = means[list(PHASES)].rename(columns=PHASES)
    figure = blank_figure(7.4, 1.3 + 0.38 * len(means))
    axes = figure.add_subplot()
    phases.plot.barh(stacked=True, width=0.8, color=PHASE_COLOURS, ax=axes)
    ends = zip(phases.sum(axis=1), means["trials"], strict=True)
    for place, (end, trials) in enumerate(ends):
        more = f", {trials:.1f} trials" if trials > 1 else ""
        axes.text(end, place, f" {end:.1f} s{more}", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel("seconds, mean of the runs")
    axes.set_ylabel("")
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    open_axes(axes)
    return figure


def strip_figure(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    xlabel: str,
    colours: Sequence[str],
) -> Figure:
    """Runs as dots, a panel for each score, a row for each label; the bar of a row is its mean.

    Args:
        panels: title -> label -> values, the same labels in every panel.
        xlabel: with unit.
        colours: of the rows.

    Raises:
        ConfigError: there is nothing to draw, or the labels differ.
    """
    labels = same_labels(panels)
    figure = blank_figure(max(8.0, 0.8 + 2.8 * len(panels)), 1.3 + 0.42 * len(labels))
    every = figure.subplots(1, len(panels), sharey=True, sharex=True, squeeze=False)[0]
    for axes, (title, rows) in zip(every, panels.items(), strict=True):
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
