"""Plots of allocation under a budget: level lines of a loss, and paths on them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.interpolate import interpn
from torch import Tensor

from dsa_core.errors import ConfigError
from dsa_core.lab.plots.style import COLOURS, DENSE, INK, blank_figure


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
    title: str,
    *,
    paths: Mapping[str, Tensor] | None = None,
    optimum: Tensor | None = None,
) -> Figure:
    """Level lines of the loss, the budget as a curve, what is too expensive in grey, and paths.

    Args:
        ground: see `landscape`.
        budget: B; the curve is F = B.
        title: what it shows.
        paths: label -> keep ratios over the steps, shape (T, 2); starts at a ring, ends at a dot.
        optimum: drawn as a star, shape (2,); the level line through it is dashed.
    """
    figure = blank_figure(6.8, 4.7)
    axes = figure.add_subplot()
    a, loss, cost = ground.ratios.numpy(), ground.loss.T.numpy(), ground.cost.T.numpy()
    axes.contourf(a, a, cost, levels=[budget, float(cost.max()) + 1], colors=[DENSE], alpha=0.35)
    places = torch.linspace(0.01, 0.99, 14, dtype=torch.float64)
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
        through = interpn((a, a), ground.loss.numpy(), optimum.numpy())
        axes.contour(a, a, loss, levels=through, colors=[COLOURS[5]], linestyles="dashed")
        axes.plot(
            *optimum.tolist(), "*", color=COLOURS[5], markersize=15, label="optimum", zorder=5
        )
    axes.set(
        title=title, xlabel="keep ratio of group 1", ylabel="keep ratio of group 2",
        aspect="equal", xlim=(a[0], 1.0), ylim=(a[0], 1.0),
    )  # fmt: skip
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8)
    return figure


def draw_path(axes: Axes, path: Tensor, label: str, colour: str) -> None:
    """Draw keep ratios (T, 2) as a line from a ring to a dot."""
    first, second = path.unbind(1)
    axes.plot(first, second, color=colour, linewidth=1.5, label=label)
    axes.plot(first[:1], second[:1], "o", color=colour, markerfacecolor="white", clip_on=False)
    axes.plot(first[-1:], second[-1:], "o", color=colour, markersize=6, clip_on=False)
