"""What ratios hide: shares of a cost, cost left at a keep ratio, equal bills, and time by width."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from dsa_core.lab.plots.style import COLOURS, blank_figure, open_axes

INK = "#333333"


def left_over_figure(ratios: Sequence[float], left: Mapping[str, Sequence[float]]) -> Figure:
    """What is left of several resources when every group keeps the same ratio of its channels.

    Args:
        ratios: keep ratios, in (0, 1].
        left: resource -> part of the dense network that is left at each ratio.
    """
    figure = blank_figure(6.4, 3.8)
    axes = figure.add_subplot()
    styles = zip(left.items(), COLOURS, ("-", "-", (0, (4, 3))) * 3, strict=False)
    for (label, values), colour, dash in styles:  # every third is dashed: curves may coincide
        axes.plot(ratios, values, color=colour, linestyle=dash, linewidth=2, label=label)
    axes.set_xlabel("keep ratio of every group")
    axes.set_ylabel("left of the dense network")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.grid(color="#E5E5E5", linewidth=0.6)
    axes.legend(frameon=False, fontsize=9)
    open_axes(axes)
    return figure


def share_figure(names: Sequence[str], shares: Mapping[str, Sequence[float]]) -> Figure:
    """What part of a resource each group takes part in, one bar for each resource.

    Args:
        names: of the groups.
        shares: resource -> share of each group, as a ratio of the dense network.
    """
    figure = blank_figure(max(6.0, 0.62 * len(names) + 2.0), 3.8)
    axes = figure.add_subplot()
    width = 0.8 / len(shares)
    for i, (label, values) in enumerate(shares.items()):
        shifted = [k - 0.4 + (i + 0.5) * width for k in range(len(names))]
        axes.bar(shifted, values, width=0.94 * width, color=COLOURS[i], label=label)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    axes.set_xlabel("channel group, named by its first layer")
    axes.set_ylabel("saved when half of it goes")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(frameon=False, fontsize=8)
    open_axes(axes)
    return figure


def spread_figure(
    scores: Mapping[str, Sequence[float]], *, xlabel: str, lines: Mapping[str, float] | None = None
) -> Figure:
    """Scores of many networks as dots, one row for each family; marks for single networks.

    Args:
        scores: family -> score of each of its networks, in [0, 1].
        xlabel: what the score is, and of how many networks.
        lines: label -> a single score, drawn as a vertical line.
    """
    figure = blank_figure(7.0, 1.6 + 0.55 * len(scores))
    axes = figure.add_subplot()
    for row, (values, colour) in enumerate(zip(scores.values(), COLOURS, strict=False)):
        lift = [row + 0.16 * ((7 * i) % 5 - 2) / 2 for i in range(len(values))]  # no dot hides one
        axes.plot(values, lift, "o", color=colour, alpha=0.65, markersize=6, markeredgewidth=0)
    for (label, value), colour in zip((lines or {}).items(), COLOURS[::-1][1:], strict=False):
        axes.axvline(value, color=colour, linewidth=2, label=f"{label}: {100 * value:.1f} %")
    axes.set_yticks(range(len(scores)), list(scores), fontsize=9)
    axes.set_ylim(-0.6, len(scores) - 0.4)
    axes.set_xlabel(xlabel)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    if lines:
        axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 1.0))
    open_axes(axes)
    return figure


def width_figure(widths: Sequence[int], milliseconds: Mapping[str, Sequence[float]]) -> Figure:
    """Time of a layer against its width; widths that are multiples of 8 are marked.

    Args:
        widths: channels in and out of the layer.
        milliseconds: number format -> time of one pass at each width.
    """
    figure = blank_figure(7.0, 3.8)
    axes = figure.add_subplot()
    for (label, values), colour in zip(milliseconds.items(), COLOURS, strict=False):
        axes.plot(widths, values, "-", color=colour, linewidth=1.2, label=label)
        marked = [(w, v) for w, v in zip(widths, values, strict=True) if w % 8 == 0]
        if marked:
            axes.plot(*zip(*marked, strict=True), "o", color=colour, markersize=6)
    axes.plot([], [], "o", color=INK, label="width is a multiple of 8")
    axes.set_xlabel("channels in and out")
    axes.set_ylabel("time of one pass, ms")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    open_axes(axes)
    return figure


def latency_figure(macs: Mapping[str, float], times: Mapping[str, float]) -> Figure:
    """What the MACs promise and what the clock says, for some networks.

    Args:
        macs: network -> MACs left, of the dense network's.
        times: network -> time left, of the dense network's; the same networks.
    """
    figure = blank_figure(6.4, 1.4 + 0.5 * len(macs))
    axes = figure.add_subplot()
    for row, name in enumerate(macs):
        axes.barh(row - 0.19, macs[name], height=0.36, color=COLOURS[0])
        axes.barh(row + 0.19, times[name], height=0.36, color=COLOURS[1])
        for place, value in ((row - 0.19, macs[name]), (row + 0.19, times[name])):
            axes.text(value + 0.01, place, f"{100 * value:.0f} %", va="center", fontsize=8)
    axes.set_yticks(range(len(macs)), list(macs), fontsize=9)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("of the dense network")
    patches = [Patch(color=COLOURS[i], label=word) for i, word in enumerate(("MACs", "time"))]
    axes.legend(
        handles=patches, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0)
    )
    open_axes(axes)
    return figure
