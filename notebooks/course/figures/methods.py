"""Several methods side by side, from records: what they score, and what they take."""

import statistics
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dsa_core.errors import ConfigError
from dsa_core.lab.data import in_unit
from dsa_core.lab.plots.allocation import UNITS
from dsa_core.lab.plots.style import COLOURS, DENSE, blank_figure, colour_of, open_axes
from dsa_core.lab.record import Record

PHASES = {"dense": "dense training", "search": "search", "fine_tune": "fine-tuning"}
PHASE_COLOURS = {"dense": DENSE, "search": COLOURS[0], "fine_tune": COLOURS[4]}


def methods_of(records: Sequence[Record]) -> list[str]:
    """The methods, each once, in the order of the records."""
    return list(dict.fromkeys(r.method for r in records))


def scores_figure(records: Sequence[Record]) -> Figure:
    """Score after fine-tuning: a panel for each budget, a row for each method, a dot for each seed.

    A hollow dot missed its budget: it is not a smaller network that scores so. The bar is the
    mean of the row, the dashed line that of the dense networks.

    Args:
        records: runs of one network, dataset and preset, in the order in which to draw methods.

    Raises:
        ConfigError: there is no run, or they are of several networks, datasets or presets.
    """
    kinds = {(r.model, r.dataset, r.preset) for r in records}
    if len(kinds) != 1:
        raise ConfigError(f"one figure is of one network, data and preset; got {sorted(kinds)}")
    ratios = sorted({r.asked_ratio for r in records}, reverse=True)
    methods = methods_of(records)
    figure = blank_figure(0.8 + 2.8 * len(ratios), 1.2 + 0.38 * len(methods))
    panels = figure.subplots(1, len(ratios), sharex=True, sharey=True, squeeze=False)[0]
    for axes, ratio in zip(panels, ratios, strict=True):
        draw_scores(axes, [r for r in records if r.asked_ratio == ratio], methods)
        axes.set_title(f"{100 * ratio:g} % of the {UNITS[records[0].resource]} asked", fontsize=10)
    panels[0].set_yticks(range(len(methods)), methods)
    panels[0].invert_yaxis()
    figure.supxlabel(f"test {records[0].score_name} in {records[0].score_unit}", fontsize=10)
    return figure


def draw_scores(axes: Axes, records: Sequence[Record], methods: Sequence[str]) -> None:
    """Draw the rows of one budget on given axes; seeds lie above one another."""
    unit = records[0].score_unit
    for place, method in enumerate(methods):
        runs = [r for r in records if r.method == method]
        if not runs:
            continue
        colour = colour_of(method)
        for number, r in enumerate(runs):
            height = place + 0.2 * (number - (len(runs) - 1) / 2)
            inside = colour if r.budget_met else "none"
            score = in_unit(r.scores.fine_tuned, unit)
            axes.plot(score, height, "o", color=colour, markerfacecolor=inside, markersize=5)
        mean = statistics.fmean(in_unit(r.scores.fine_tuned, unit) for r in runs)
        axes.plot([mean, mean], [place - 0.38, place + 0.38], color=colour, linewidth=2.5)
    dense = [in_unit(r.scores.dense, unit) for r in records if r.scores.dense is not None]
    if dense:
        axes.axvline(statistics.fmean(dense), color="#333333", linestyle="--", linewidth=1)
    open_axes(axes)


def seconds_figure(records: Sequence[Record]) -> Figure:
    """Where the seconds of each method go: mean over its runs, phase by phase.

    The number behind a bar is the sum, and how many trainings or games the search took if that is
    more than one.

    Args:
        records: runs of one network on one device, in the order in which to draw methods.
    """
    methods = methods_of(records)
    figure = blank_figure(7.4, 1.3 + 0.38 * len(methods))
    axes = figure.add_subplot()
    for place, method in enumerate(methods):
        runs = [r for r in records if r.method == method]
        start = 0.0
        for phase, name in PHASES.items():
            width = statistics.fmean(r.seconds.get(phase, 0.0) for r in runs)
            label = name if place == 0 else None
            axes.barh(place, width, left=start, color=PHASE_COLOURS[phase], label=label)
            start += width
        trials = statistics.fmean(r.trials for r in runs)
        more = f", {trials:.1f} trials" if trials > 1 else ""
        axes.text(start, place, f" {start:.1f} s{more}", va="center", fontsize=8)
    axes.set_yticks(range(len(methods)), methods)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel("seconds, mean of the runs")
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    open_axes(axes)
    return figure
