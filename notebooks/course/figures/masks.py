"""Keep probabilities drawn against importance, and prices of groups against the truth."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from torch import Tensor

from dsa_core.kernels import inexactness, soft_topk
from dsa_core.lab.plots.style import COLOURS, blank_figure, open_axes


def keep_figure(b: Tensor, *, keep_ratio: float, sharpness: float) -> Figure:
    """Keep probabilities of one group: a bar for each channel, the most important first.

    Args:
        b: importance of the channels, > 0, shape (C,).
        keep_ratio: alpha, in (0, 1].
        sharpness: beta2 > 0.
    """
    p = group_probs(b, keep_ratio=keep_ratio, sharpness=sharpness)
    spread = float(inexactness(p, torch.tensor([0, len(b)])))
    figure = blank_figure(6.4, 3.2)
    axes = figure.add_subplot()
    places = range(1, len(b) + 1)
    axes.bar(places, p.tolist(), color=COLOURS[0], width=0.86, label="keep probability")
    axes.axvline(
        keep_ratio * len(b) + 0.5, color=COLOURS[5], linestyle="--", linewidth=1.2,
        label=f"exactly {keep_ratio * len(b):.3g} of {len(b)} kept",
    )  # fmt: skip
    axes.set_ylim(0, 1.05)
    axes.set_xlim(0.3, len(b) + 0.9)
    axes.set_xlabel("channel, the most important first")
    axes.set_ylabel("keep probability p")
    axes.set_title(
        f"keep ratio {keep_ratio:.2f}, sharpness {sharpness:.3g}:   "
        f"sum p = {float(p.sum()):.2f},   sum p(1 - p) = {spread:.2f}",
        fontsize=10,
    )
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    open_axes(axes)
    return figure


def sharpness_figure(b: Tensor, *, keep_ratio: float, sharpness: Sequence[float]) -> Figure:
    """Left: p against importance for some sharpnesses; right: the inexactness against sharpness.

    Args:
        b: importance of the channels of one group, > 0, shape (C,).
        keep_ratio: alpha, in (0, 1].
        sharpness: rising; at most six are readable.
    """
    figure = blank_figure(7.6, 3.3)
    left, right = figure.subplots(1, 2)
    order = b.argsort()
    errors = []
    for colour, beta2 in zip(COLOURS, sharpness, strict=False):
        p = group_probs(b, keep_ratio=keep_ratio, sharpness=beta2).flip(0)
        left.plot(b[order].tolist(), p.tolist(), "o-", color=colour, ms=3.5, label=f"{beta2:g}")
        errors.append(float((p * (1 - p)).sum()))
    log_axis(left, b.tolist())
    left.set_xlabel("importance b (log scale)")
    left.set_ylabel("keep probability p")
    left.legend(title="sharpness", frameon=False, fontsize=8, title_fontsize=8)
    right.plot(list(sharpness), errors, "o-", color=COLOURS[5])
    log_axis(right, sharpness)
    right.set_xlabel("sharpness (log scale)")
    right.set_ylabel("inexactness sum p(1 - p), channels²")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        open_axes(axes)
    return figure


def log_axis(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic x axis for these values, with its numbers written out."""
    axes.set_xscale("log")
    wide = max(values) / min(values) > 10
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if wide else MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def group_probs(b: Tensor, *, keep_ratio: float, sharpness: float) -> Tensor:
    """Keep probabilities of one group, the most important first, shape (C,)."""
    scores = b.detach().log().sort(descending=True).values
    k = torch.tensor([keep_ratio * len(b)], dtype=scores.dtype)
    return soft_topk(scores, k, torch.tensor([0, len(b)]), temperature=1 / sharpness)


def prices_figure(truth: Tensor, estimates: Mapping[str, Tensor]) -> Figure:
    """Every group's price by finite differences, and by estimates beside it.

    Args:
        truth: price of every group, in units of the loss, shape (K,).
        estimates: name -> prices, shape (K,) each; at most three are readable.
    """
    figure = blank_figure(7.6, 3.5)
    axes = figure.add_subplot()
    places, width = torch.arange(len(truth)), 0.84 / (1 + len(estimates))
    rows = {"finite differences (truth)": truth, **estimates}
    colours = ("#333333", *COLOURS)
    for i, (name, values) in enumerate(rows.items()):
        shifted = places - 0.42 + (i + 0.5) * width
        axes.bar(shifted.tolist(), values.tolist(), width=width, color=colours[i], label=name)
    axes.axhline(0, color="#333333", linewidth=0.8)
    axes.set_xticks(places.tolist())
    axes.set_xlabel("channel group, in the order of the network")
    axes.set_ylabel("price: loss per unit of log cost")
    axes.legend(frameon=False, fontsize=8)
    open_axes(axes)
    return figure
