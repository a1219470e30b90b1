"""What it takes to meet a budget by trial: strengths of a penalty, and episodes of an agent."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from dsa_core.lab.plots.style import COLOURS, DENSE, blank_figure, open_axes

Trial = tuple[float, float]


def trials_figure(
    methods: Mapping[str, Sequence[Trial]], budget: float, *, tolerance: float = 0.02
) -> Figure:
    """The cost that every strength of a penalty came out at, numbered in the order of the trials.

    Args:
        methods: name -> (lambda, cost as a ratio of the dense one) of each trial, in order.
        budget: the ratio asked for, drawn as a band from (1 - tolerance) times it.
        tolerance: how far below the budget is a hit.

    Returns:
        A panel for each method; lambda has the unit of the method's penalty.
    """
    figure = blank_figure(4.2 * len(methods), 3.2)
    panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    for axes, (name, trials), colour in zip(panels, methods.items(), COLOURS, strict=False):
        axes.axhspan(budget * (1 - tolerance), budget, color=COLOURS[1], alpha=0.6, linewidth=0)
        ordered = sorted(trials)
        axes.plot(*zip(*ordered, strict=True), color=DENSE, linewidth=1, zorder=1)
        axes.plot(*zip(*trials, strict=True), "o", color=colour, markersize=6)
        for number, point in enumerate(trials, start=1):
            beside = (5, 5 if number % 2 else -12)  # late trials lie close together
            axes.annotate(str(number), point, xytext=beside, textcoords="offset points", fontsize=9)
        axes.set_xscale("log")
        ticks = np.geomspace(ordered[0][0], ordered[-1][0], 4)
        axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlabel(f"{name}: strength λ of the penalty")
        axes.set_ylim(0, 1.08)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        open_axes(axes)
    panels[0].set_ylabel("MACs left, of the dense network")
    return figure


def shrink_figure(
    strengths: Sequence[float],
    weights: Mapping[str, Sequence[Sequence[float]]],
    costs: Sequence[float],
    budget: float,
    *,
    tolerance: float = 0.02,
) -> Figure:
    """What a penalty leaves of some weights, and what the channels that are left cost.

    Args:
        strengths: lambda, rising.
        weights: name of a layer -> at each strength the weight of each of its channels.
        costs: at each strength, as a ratio of the dense one.
        budget: the ratio asked for, drawn as a band from (1 - tolerance) times it.
        tolerance: how far below the budget is a hit.
    """
    figure = blank_figure(8.4, 3.2)
    left, right = figure.subplots(1, 2)
    for (name, rows), colour in zip(weights.items(), COLOURS, strict=False):
        for number, values in enumerate(zip(*rows, strict=True)):
            left.plot(strengths, values, color=colour, label=name if number == 0 else None)
    left.set_ylabel("weight that is left")
    left.legend(frameon=False, fontsize=8)
    right.axhspan(budget * (1 - tolerance), budget, color=COLOURS[1], alpha=0.6, linewidth=0)
    right.step(strengths, costs, where="post", color=COLOURS[0])
    right.set_ylim(0, 1.05)
    right.yaxis.set_major_formatter(PercentFormatter(1.0))
    right.set_ylabel("MACs left, of the dense network")
    for axes in (left, right):
        axes.set_xlabel("strength λ of the penalty")
        open_axes(axes)
    return figure


def episodes_figure(losses: Sequence[float], random_episodes: int) -> Figure:
    """The held-out loss of every network that an agent tried, and the best one so far.

    Args:
        losses: of each episode, in order.
        random_episodes: the first of them, drawn in grey.
    """
    figure = blank_figure(7.0, 3.0)
    axes = figure.subplots()
    numbers = list(range(1, len(losses) + 1))
    best = [min(losses[:n]) for n in numbers]
    cut = random_episodes
    axes.plot(numbers[:cut], losses[:cut], ".", color=DENSE, label="random actions")
    axes.plot(numbers[cut:], losses[cut:], ".", color=COLOURS[0], label="the agent's actions")
    axes.plot(numbers, best, color=COLOURS[5], label="best so far")
    axes.set_xlabel("episode: one network each")
    axes.set_ylabel("held-out loss, not fine-tuned")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    open_axes(axes)
    return figure
