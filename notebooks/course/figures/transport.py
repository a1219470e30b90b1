"""Masks as transport: a plan between channels and two bins, its decay, and where weights stay."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from torch import Tensor

from dsa_core.lab.plots.style import COLOURS, DENSE, INK, blank_figure, open_axes

BINS = ("dropped", "kept")


def plan_figure(scores: Tensor, plan: Tensor) -> Figure:
    """A transport plan: how much of each channel goes to which bin, as stacked bars.

    The length of a piece is P_ij, written in it where there is room; below, what each bin gets.

    Args:
        scores: s of the channels, shape (n,); n up to a dozen is readable.
        plan: P, shape (n, 2), entries >= 0: to "dropped", to "kept".
    """
    figure = blank_figure(6.8, 1.6 + 0.34 * len(scores))
    axes = figure.add_subplot()
    rows = [f"channel {i + 1}: s = {s:.2f}" for i, s in enumerate(scores.tolist())]
    widest = float(plan.sum(1).max())
    left = [0.0] * len(rows)
    for j, (name, colour) in enumerate(zip(BINS, (DENSE, COLOURS[0]), strict=True)):
        pieces = plan[:, j].tolist()
        axes.barh(rows, pieces, left=left, color=colour, label=f"{name}: {sum(pieces):.2f} in all")
        for row, (at, piece) in enumerate(zip(left, pieces, strict=True)):
            if piece > 0.08 * widest:
                ink = "white" if j else INK
                axes.text(at + piece / 2, row, f"{piece:.3f}", ha="center", va="center", color=ink)
        left = [at + piece for at, piece in zip(left, pieces, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("mass moved, of 1 in all")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    open_axes(axes)
    return figure


def masks_figure(scores: Tensor, masks: Mapping[str, Tensor]) -> Figure:
    """Masks against scores, a line for each kind of mask.

    Args:
        scores: s, shape (n,).
        masks: name -> m, shape (n,) each; at most six are readable.
    """
    figure = blank_figure(6.4, 3.3)
    axes = figure.add_subplot()
    order = scores.argsort()
    for colour, (name, mask) in zip(COLOURS, masks.items(), strict=False):
        axes.plot(
            scores[order].tolist(), mask[order].tolist(), "o-", ms=3.5, color=colour, label=name
        )
    axes.axhline(1.0, color=DENSE, linewidth=1.0, linestyle="--")
    axes.set(xlabel="score s", ylabel="mask m")
    axes.legend(frameon=False, fontsize=8)
    open_axes(axes)
    return figure


def decay_figure(steps: Sequence[int], undecided: Mapping[str, Sequence[float]]) -> Figure:
    """How much of the masks is undecided after t steps; axes are logarithmic, y if it must be.

    Args:
        steps: t of every point, rising, at least 1.
        undecided: name -> sum of m (1 - m) in channels squared, a value for each step, > 0; the
            second and later ones are drawn as dots, to show lines that coincide.
    """
    figure = blank_figure(6.4, 3.3)
    axes = figure.add_subplot()
    for i, (name, values) in enumerate(undecided.items()):
        style = {"marker": "o", "linestyle": "none", "ms": 5.0} if i else {"linestyle": "-"}
        axes.plot(list(steps), list(values), color=COLOURS[i], label=name, **style)
    log_axis(axes, [max(1, s) for s in steps])
    values = [v for several in undecided.values() for v in several]
    if max(values) > 20 * min(values):
        axes.set_yscale("log")
    axes.set_xlabel("step t (log scale)")
    axes.set_ylabel(f"sum of m(1 - m), channels²{' (log)' * (axes.get_yscale() == 'log')}")
    axes.legend(frameon=False, fontsize=8)
    open_axes(axes)
    return figure


def density_figure(density: Mapping[str, float], *, asked: float) -> Figure:
    """Share of every weight tensor that stays, as bars in the order of the network.

    Args:
        density: name of the tensor -> share in [0, 1].
        asked: share of all parameters that was asked for, drawn as a line.
    """
    figure = blank_figure(6.8, 0.9 + 0.27 * len(density))
    axes = figure.add_subplot()
    axes.barh(list(density), [100 * d for d in density.values()], color=COLOURS[0])
    axes.axvline(100 * asked, color=COLOURS[5], linestyle="--", label=f"asked: {asked:.0%} of all")
    axes.invert_yaxis()
    axes.set_xlabel("weights that stay, % of the tensor")
    axes.legend(frameon=False, fontsize=8)
    open_axes(axes)
    return figure


def log_axis(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic x axis for these values, with its numbers written out."""
    axes.set_xscale("log")
    wide = max(values) / min(values) > 10
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if wide else MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
