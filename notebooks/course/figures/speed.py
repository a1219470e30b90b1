"""Where time goes: roofs over layers, time against MACs, roots of segments, fits of a clock."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter
from torch import Tensor

from dsa_core.lab.plots.style import COLOURS, DENSE, blank_figure, open_axes

INK = "#333333"
MARKERS = ("o", "s", "^", "D", "v", "P")
LOWEST = 1e-17  # a residual of zero is drawn here
Dots = Sequence[tuple[str, float, float]]


def roofline_figure(dots: Mapping[str, Dots], *, peak: float, bandwidth: float) -> Figure:
    """Measured layers under the two roofs of a machine, both axes logarithmic.

    Args:
        dots: kind of layer -> (label, MACs per byte, 10^9 MACs per second) of each; an empty label
            is not written.
        peak: most of 10^9 MACs per second.
        bandwidth: 10^9 bytes per second.
    """
    figure = blank_figure(7.2, 4.4)
    axes = figure.add_subplot()
    placed = [dot for row in dots.values() for dot in row]
    low = min(0.5, *(x for _, x, _ in placed)) / 1.5
    high = max(4 * peak / bandwidth, *(x for _, x, _ in placed)) * 1.8
    corner = peak / bandwidth
    axes.plot([low, corner], [low * bandwidth, peak], color=INK, linewidth=1.6)
    axes.plot([corner, high], [peak, peak], color=INK, linewidth=1.6)
    axes.axvline(corner, color=DENSE, linestyle="--", linewidth=1.0)
    for place, side, words in (
        (corner / 1.1, "right", f"memory: {bandwidth:.3g} GB/s"),
        (corner * 1.1, "left", f"arithmetic: {peak:.3g} GMAC/s"),
    ):
        axes.text(place, peak * 1.12, words, fontsize=8, ha=side, color=INK)
    for i, (kind, row) in enumerate(dots.items()):
        axes.plot(
            [x for _, x, _ in row], [y for _, _, y in row], MARKERS[i], color=COLOURS[i], label=kind
        )
        shift = (0, -13 if i % 2 else 6)  # labels of kinds that lie close part
        for name, x, y in row:
            axes.annotate(name, (x, y), shift, ha="center", textcoords="offset points", fontsize=7)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    rates = [y for _, _, y in placed]
    axes.set_ylim(min(rates) / 1.5, 2.2 * max(peak, *rates))
    plain_numbers(figure)
    axes.set_xlabel("arithmetic intensity, MACs per byte (log scale)")
    axes.set_ylabel("10⁹ MACs per second (log scale)")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    open_axes(axes)
    return figure


def plain_numbers(figure: Figure) -> None:
    """Write 1, 10, 100 at logarithmic axes rather than powers."""
    for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())


def promise_figure(
    macs: Mapping[str, Sequence[float]], times: Mapping[str, Sequence[float]]
) -> Figure:
    """Time left against MACs left, a line for each layer; on the diagonal every MAC saved is time.

    Args:
        macs: layer -> MACs at each of its widths, of the dense layer's, rising.
        times: layer -> time at the same widths, of the dense layer's.
    """
    figure = blank_figure(5.8, 4.4)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=INK, linestyle="--", linewidth=1.2, label="time = MACs")
    for i, name in enumerate(macs):
        axes.plot(
            macs[name], times[name], f"{MARKERS[i]}-", color=COLOURS[i], markersize=4, label=name
        )
    axes.axvline(0.5, color=DENSE, linewidth=1.0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlim(0, 1.03)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("MACs left, of the dense layer")
    axes.set_ylabel("time left, of the dense layer")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    open_axes(axes)
    return figure


def ragged_figure(p: Tensor, offsets: Tensor) -> Figure:
    """Segments of a flat vector as rows of different lengths, each channel coloured by its p.

    Args:
        p: keep probabilities, shape (n,), in [0, 1].
        offsets: shape (G + 1,), int64; segment g is p[offsets[g] : offsets[g + 1]].
    """
    sizes = offsets.diff().tolist()
    rows = np.full((len(sizes), max(sizes)), np.nan)
    for g, part in enumerate(p.detach().split(sizes)):
        rows[g, : len(part)] = part.sort(descending=True).values.numpy()
    figure = blank_figure(7.2, 1.3 + 0.11 * len(sizes))
    axes = figure.add_subplot()
    white_to_blue = LinearSegmentedColormap.from_list("kept", ["#FFFFFF", COLOURS[0]])
    scale = white_to_blue.with_extremes(bad=DENSE)
    drawn = axes.imshow(rows, cmap=scale, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    figure.colorbar(drawn, ax=axes, label="keep probability p", fraction=0.05, pad=0.02)
    axes.set_xlabel("channel of the group, the most important first (grey: there is none)")
    axes.set_ylabel("group")
    return figure


def residual_figure(residuals: Mapping[str, Tensor]) -> Figure:
    """How fast methods find the thresholds: a thin line for each segment, over evaluations.

    Args:
        residuals: method -> |sum p - k| / k, shape (steps, G); zeros are drawn at 1e-17.
    """
    figure = blank_figure(6.8, 3.7)
    axes = figure.add_subplot()
    longest = 1
    for (name, values), colour in zip(residuals.items(), COLOURS, strict=False):
        steps = range(1, len(values) + 1)
        longest = max(longest, len(values))
        lines = axes.plot(steps, values.clamp_min(LOWEST), color=colour, linewidth=0.8, alpha=0.6)
        lines[0].set_label(name)
    axes.axhline(1e-10, color=INK, linestyle="--", linewidth=1.0, label="found: 1e-10")
    axes.set_yscale("log")
    axes.set_xlim(1, longest)
    axes.set_xlabel("evaluation of all segments")
    axes.set_ylabel("|sum p - k| / k (log scale)")
    legend = axes.legend(frameon=False, fontsize=8, loc="upper right")
    for handle in legend.legend_handles:
        handle.set(linewidth=2, alpha=1)  # type: ignore[union-attr]
    open_axes(axes)
    return figure


def bar_figure(values: Mapping[str, float], *, xlabel: str) -> Figure:
    """Bars from the top, each with its number.

    Args:
        values: name -> value, at least 0.
        xlabel: what they are, with the unit.
    """
    figure = blank_figure(7.2, 0.9 + 0.36 * len(values))
    axes = figure.add_subplot()
    axes.barh(list(values), list(values.values()), color=COLOURS[0], height=0.65)
    for row, value in enumerate(values.values()):
        axes.annotate(f"{value:.3g}", (value, row), (4, 0), textcoords="offset points", va="center")
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.set_xlabel(xlabel)
    open_axes(axes)
    return figure


def fit_figure(clocks: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Predicted against measured times, one panel for each clock; on the diagonal they agree.

    Args:
        clocks: title -> predicted and measured milliseconds of the same networks.
    """
    figure = blank_figure(3.4 * len(clocks) + 0.4, 3.5)
    panels = figure.subplots(1, len(clocks), squeeze=False)[0]
    for axes, (title, (predicted, measured)) in zip(panels, clocks.items(), strict=True):
        ends = torch.tensor([*predicted, *measured]).aminmax()
        axes.plot(ends, ends, color=INK, linestyle="--", linewidth=1.0)
        axes.plot(predicted, measured, "o", color=COLOURS[0], markersize=5, alpha=0.8)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("predicted by the form, ms")
        open_axes(axes)
    panels[0].set_ylabel("by the clock, ms")
    return figure
