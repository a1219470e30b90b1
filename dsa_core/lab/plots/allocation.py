"""Kept channels of every group, from records."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dsa_core.errors import ConfigError
from dsa_core.lab.data import with_unit
from dsa_core.lab.plots.style import COLOURS, DENSE, blank_figure, open_axes
from dsa_core.lab.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PER_ROW = 10  # groups side by side
UNITS = {"macs": "MACs", "params": "parameters", "latency": "latency"}


def allocation_figure(records: Sequence[Record]) -> "Figure":
    """Kept channels of every group, one bar per run, in front of the dense size in grey.

    Eight inches wide, with one row per ten groups.

    Args:
        records: runs of one network, at least one; up to seven get distinct colours.

    Raises:
        ConfigError: there is no run, or the runs do not have the same groups.
    """
    check_groups(records)
    first, n = records[0], len(records[0].groups)
    rows = -(-n // PER_ROW)
    figure = blank_figure(8.0, 1.3 + 2.4 * rows)
    every = figure.subplots(rows, 1, squeeze=False)[:, 0]
    each = -(-n // rows)  # rows of equal length; the last may be shorter
    for i, axes in enumerate(every):
        draw_allocation(axes, records, range(i * each, min((i + 1) * each, n)))
        axes.set_xlim(-0.6, each - 0.4)
    every[-1].set_xlabel("channel group, named by its first layer")
    asked = " and ".join(f"{100 * x:g} % of the {UNITS[name]}" for name, x in first.asked.items())
    figure.legend(
        *every[0].get_legend_handles_labels(),
        title=f"{first.model} on {first.dataset}, {asked} asked",
        loc="outside upper center",
        ncols=2,
        frameon=False,
        fontsize=9,
    )
    return figure


def check_groups(records: Sequence[Record]) -> None:
    """Refuse runs that cannot share a figure."""
    if not records:
        raise ConfigError("records is empty: there is no run to draw")
    first = records[0]
    for r in records[1:]:
        if [(g.name, g.size) for g in r.groups] != [(g.name, g.size) for g in first.groups]:
            raise ConfigError(
                f"{r.model} ({r.method}) and {first.model} ({first.method}) do not have the same "
                "groups: draw them separately"
            )


def draw_allocation(axes: "Axes", records: Sequence[Record], shown: range) -> None:
    """Draw the bars of some groups on given axes."""
    groups, places = [records[0].groups[k] for k in shown], range(len(shown))
    axes.bar(places, [g.size for g in groups], width=0.9, color=DENSE, label="dense")
    width = 0.86 / len(records)
    for i, r in enumerate(records):
        shifted = [p - 0.43 + (i + 0.5) * width for p in places]
        kept = [r.groups[k].kept for k in shown]
        bars = axes.bar(
            shifted, kept, width=0.94 * width, color=COLOURS[i % len(COLOURS)], label=label(r)
        )
        axes.bar_label(bars, fontsize=8 if len(records) <= 3 else 6, padding=1)
    axes.set_xticks(places, [g.name for g in groups], rotation=25, ha="right", fontsize=8)
    axes.set_ylabel("channels kept")
    open_axes(axes)


def label(record: Record) -> str:
    """Method, seed, cost and score of a run as a legend entry."""
    cost, score = record.costs[record.resource].ratio, record.scores.fine_tuned
    shown = f"{with_unit(score, record.score_unit)} {record.score_name}"
    words = f"{100 * cost:.1f} % {UNITS[record.resource]}, {shown}"
    return f"{record.method}, seed {record.seed}: {words}"
