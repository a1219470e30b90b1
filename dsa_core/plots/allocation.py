"""Kept channels of every group, from records."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dsa_core.errors import ConfigError
from dsa_core.plots.style import COLOURS, DENSE, blank_figure, open_axes
from dsa_core.record import Record


def allocation_figure(records: Sequence[Record]) -> Figure:
    """Kept channels of every group, one bar for each run, before the dense size in grey.

    Args:
        records: runs of one network; at most seven are readable.

    Raises:
        ConfigError: the runs do not have the same groups.
    """
    names = [g.name for g in records[0].groups]
    for r in records[1:]:
        if [g.name for g in r.groups] != names:
            raise ConfigError(
                f"{r.model} and {records[0].model} have other groups: draw them apart"
            )
    figure = blank_figure(max(6.0, 0.62 * len(names) + 2.0), 3.8)
    axes = figure.add_subplot()
    draw_allocation(axes, records)
    return figure


def draw_allocation(axes: Axes, records: Sequence[Record]) -> None:
    """Draw the bars on given axes."""
    groups = records[0].groups
    places = range(len(groups))
    axes.bar(places, [g.size for g in groups], width=0.86, color=DENSE, label="dense")
    width = 0.8 / len(records)
    for i, r in enumerate(records):
        shifted = [p - 0.4 + (i + 0.5) * width for p in places]
        kept = [g.kept for g in r.groups]
        bars = axes.bar(
            shifted, kept, width=0.94 * width, color=COLOURS[i % len(COLOURS)], label=label(r)
        )
        axes.bar_label(bars, fontsize=7, padding=1)
    axes.set_xticks(places, [g.name for g in groups], rotation=40, ha="right", fontsize=8)
    axes.set_ylabel("channels kept")
    axes.set_xlabel("channel group, named by its first layer")
    first = records[0]
    asked = f"{100 * first.asked_ratio:g} % of {first.resource} asked"
    axes.set_title(f"{first.model} on {first.dataset}, {asked}", fontsize=10)
    open_axes(axes)
    axes.legend(frameon=False, fontsize=8)


def label(record: Record) -> str:
    """Method, cost and score of a run in a few words."""
    cost, score = record.costs[record.resource].ratio, record.scores.fine_tuned
    shown = f"{100 * score:.2f} % {record.score_name}"
    return f"{record.method}: {100 * cost:.1f} % {record.resource}, {shown}"
