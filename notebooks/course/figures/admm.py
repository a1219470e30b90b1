"""Pictures of allocation under a budget: level lines, residuals, penalties, prices, Q."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from dsa_core.errors import ConfigError
from dsa_core.lab.plots.style import COLOURS, DENSE, blank_figure, open_axes

INK = "#333333"


@dataclass(frozen=True)
class Landscape:
    """Loss and cost of two groups on a square grid of keep ratios.

    Attributes:
        ratios: of either axis, shape (n,).
        loss, cost: at (first, second), shape (n, n), the first group along axis 0.
    """

    ratios: Tensor
    loss: Tensor
    cost: Tensor


def landscape(
    loss: Callable[[Tensor], Tensor],
    cost: Callable[[Tensor], Tensor],
    *,
    lowest: float = 0.1,
    n: int = 60,
) -> Landscape:
    """Evaluate a loss and a cost, each (2,) -> (), on an n by n grid of ratios from lowest to 1."""
    if not 0 < lowest < 1 or n < 2:
        raise ConfigError(f"wanted 0 < lowest < 1 and n >= 2, got {lowest} and {n}")
    ratios = torch.linspace(lowest, 1.0, n, dtype=torch.float64)
    points = torch.cartesian_prod(ratios, ratios)
    values = [torch.stack([f(p) for p in points]).reshape(n, n) for f in (loss, cost)]
    return Landscape(ratios, *values)


def landscape_figure(
    ground: Landscape,
    budget: float,
    *,
    paths: Mapping[str, Tensor] | None = None,
    optimum: Tensor | None = None,
    levels: int = 14,
) -> Figure:
    """Level lines of the loss, the budget as a curve, what is too expensive in grey, and paths.

    Args:
        ground: see `landscape`.
        budget: B; the curve is F = B.
        paths: label -> keep ratios over the steps, shape (T, 2); starts at a ring, ends at a dot.
        optimum: drawn as a star, shape (2,).
        levels: lines of the loss, at its quantiles on the grid.
    """
    figure = blank_figure(6.8, 4.7)
    axes = figure.add_subplot()
    a, loss, cost = ground.ratios.numpy(), ground.loss.T.numpy(), ground.cost.T.numpy()
    axes.contourf(a, a, cost, levels=[budget, float(cost.max()) + 1], colors=[DENSE], alpha=0.35)
    places = torch.linspace(0.01, 0.99, levels, dtype=torch.float64)
    lines = axes.contour(
        a, a, loss, levels=ground.loss.flatten().quantile(places).unique().numpy(),
        colors="#999999", linewidths=0.8,
    )  # fmt: skip
    axes.clabel(lines, fontsize=7, fmt="%.3g")
    axes.contour(a, a, cost, levels=[budget], colors=[INK], linewidths=2.2)
    axes.plot([], [], color=INK, linewidth=2.2, label=f"budget: F = {budget:g}")
    axes.plot([], [], color="#999999", linewidth=0.8, label="level lines of the loss")
    for (label, path), colour in zip((paths or {}).items(), COLOURS, strict=False):
        draw_path(axes, path, label, colour)
    if optimum is not None:
        axes.plot(
            *optimum.tolist(), "*", color=COLOURS[5], markersize=15, label="optimum", zorder=5
        )
    axes.set_xlabel("keep ratio of group 1")
    axes.set_ylabel("keep ratio of group 2")
    axes.set_aspect("equal")
    axes.set_xlim(a[0], 1.0)
    axes.set_ylim(a[0], 1.0)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8)
    return figure


def draw_path(axes: Axes, path: Tensor, label: str, colour: str) -> None:
    """Draw keep ratios (T, 2) as a line from a ring to a dot."""
    first, second = path.unbind(1)
    axes.plot(first, second, color=colour, linewidth=1.5, label=label)
    axes.plot(first[:1], second[:1], "o", color=colour, markerfacecolor="white", clip_on=False)
    axes.plot(first[-1:], second[-1:], "o", color=colour, markersize=6, clip_on=False)


def curves_figure(
    curves: Mapping[str, Sequence[float]],
    *,
    ylabel: str,
    line: float | None = None,
    line_label: str = "budget",
    log: bool = False,
    xlabel: str = "steps",
) -> Figure:
    """Curves over the steps of an optimizer: residuals (log), or costs against a budget.

    Args:
        curves: label -> one value a step. On a logarithmic axis values <= 0 are left out.
        ylabel, xlabel: with the unit.
        line: a level to draw across, such as the budget.
        line_label: what it is.
        log: whether the vertical axis is logarithmic.
    """
    figure = blank_figure(7.0, 3.6)
    axes = figure.add_subplot()
    if line is not None:
        axes.axhline(line, color=INK, linewidth=1.0, linestyle="--", label=line_label)
    for (label, values), colour in zip(curves.items(), COLOURS, strict=False):
        shown = [v if v > 0 or not log else math.nan for v in values]
        axes.plot(range(1, len(shown) + 1), shown, color=colour, linewidth=1.5, label=label)
    if log:
        axes.set_yscale("log")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.legend(frameon=False, fontsize=8)
    open_axes(axes)
    return figure


def penalty_figure(
    weights: Sequence[float], costs: Mapping[str, Sequence[float]], budget: float
) -> Figure:
    """The cost at which a penalised loss comes to rest, against the weight of the penalty.

    Args:
        weights: of the penalty, > 0.
        costs: label -> cost at each weight, of the dense cost.
        budget: what was wanted.
    """
    figure = blank_figure(7.0, 3.6)
    axes = figure.add_subplot()
    axes.axhline(budget, color=INK, linewidth=1.0, linestyle="--", label="budget")
    for (label, values), colour in zip(costs.items(), COLOURS, strict=False):
        axes.plot(weights, values, "o-", color=colour, markersize=4, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("weight of the penalty")
    axes.set_ylabel("cost where it rests, of dense")
    axes.set_ylim(0, 1.05)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(frameon=False, fontsize=8)
    open_axes(axes)
    return figure


def price_figure(
    names: Sequence[str],
    prices: Mapping[str, Sequence[float]],
    *,
    errors: Mapping[str, Sequence[float]] | None = None,
    linear_below: float | None = None,
) -> Figure:
    """The price of a MAC in every group, one bar for each allocation.

    Args:
        names: of the groups.
        prices: label -> price of each group, in loss per log cost; below 0 = more channels help.
        errors: label -> standard error of each.
        linear_below: None for a linear axis; else the axis is logarithmic either way beyond this
            size, so that large prices do not hide small ones.
    """
    figure = blank_figure(max(6.0, 0.75 * len(names) + 2.0), 3.6)
    axes = figure.add_subplot()
    width = 0.8 / len(prices)
    for i, (label, values) in enumerate(prices.items()):
        shifted = [k - 0.4 + (i + 0.5) * width for k in range(len(names))]
        bars = (errors or {}).get(label)
        axes.bar(shifted, values, width=0.94 * width, color=COLOURS[i], yerr=bars, label=label)
    axes.axhline(0.0, color=INK, linewidth=0.8)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    axes.set_xlabel("channel group, named by its first layer")
    axes.set_ylabel("price: loss per log cost")
    if linear_below is not None:
        axes.set_yscale("symlog", linthresh=linear_below)
        axes.set_ylabel("price: loss per log cost\n(logarithmic away from 0)")
    axes.legend(frameon=False, fontsize=8)
    open_axes(axes)
    return figure


def matrix_figure(Q: Tensor, q: Tensor, names: Sequence[str]) -> Figure:
    """The quadratic form of a cost: who pays with whom, as shares of the dense cost in per cent.

    Args:
        Q: shape (K, K), symmetric, F = a'Qa + q'a + constant, in units of the dense cost.
        q: shape (K,), drawn as a last column.
        names: of the groups.
    """
    figure = blank_figure(7.6, 6.0)
    axes = figure.add_subplot()
    together = torch.tril(2 * Q) - torch.diag(Q.diagonal())  # each pair once, below the diagonal
    shown = (
        torch.cat([together, q[:, None]], 1)
        .mul(100)
        .masked_fill_(torch.cat([together, q[:, None]], 1) == 0, torch.nan)
    )
    picture = axes.imshow(shown.numpy(), cmap="viridis_r", vmin=0)
    for i, j in (shown == shown).nonzero().tolist():
        value = float(shown[i, j])
        dark = value > 0.6 * float(shown.nan_to_num().max())
        text = f"{value:.1f}" if value >= 0.05 else "0"
        axes.text(j, i, text, ha="center", va="center", fontsize=7, color="white" if dark else INK)
    axes.set_xticks(
        range(len(names) + 1), [*names, "alone (q)"], rotation=50, ha="right", fontsize=7
    )
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_facecolor("#F4F4F4")
    figure.colorbar(picture, ax=axes, label="share of the dense MACs, %", shrink=0.8)
    return figure
