"""A soft choice between keep counts: the staircase mask, choices as they become firm, costs."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from matplotlib.figure import Figure
from torch import Tensor

from dsa_core.errors import ConfigError
from dsa_core.lab.plots.style import COLOURS, INK, blank_figure, open_axes


def staircase_figure(pi: Sequence[float], counts: Sequence[int]) -> Figure:
    """Left: the probabilities of the candidates; right: the mask they make, in their colours.

    Every candidate lays a slab of height pi_j over the channels it keeps; the mask of a channel is
    the height of what lies on it.

    Args:
        pi: probabilities of the candidates, at most seven.
        counts: channels that each candidate keeps, rising; the last is the size of the group.

    Raises:
        ConfigError: the lengths differ, or there are too many candidates to colour.
    """
    if len(pi) != len(counts) or len(pi) > len(COLOURS):
        raise ConfigError(
            f"wanted one probability for each of at most {len(COLOURS)} candidates, got {len(pi)} "
            f"for {len(counts)}"
        )
    figure = blank_figure(7.6, 3.2)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.6])
    places = range(1, counts[-1] + 1)
    base = [0.0] * counts[-1]
    for odds, count, colour in reversed(list(zip(pi, counts, COLOURS, strict=False))):
        left.bar(str(count), odds, color=colour)
        heights = [odds if place <= count else 0.0 for place in places]
        right.bar(places, heights, bottom=base, color=colour, width=0.92)
        base = [b + h for b, h in zip(base, heights, strict=True)]
    for place, height in zip(places, base, strict=True):
        right.text(place, height + 0.02, f"{height:.2g}", ha="center", fontsize=8)
    left.invert_xaxis()
    left.set(xlabel="candidate: channels kept", ylabel="probability", ylim=(0, 1))
    right.set(xlabel="channel, the most important first", ylabel="mask", ylim=(0, 1.12))
    right.set_xticks(list(places) if len(base) <= 20 else [1, *range(8, len(base) + 1, 8)])
    for axes in (left, right):
        open_axes(axes)
    return figure


def choices_figure(choices: Mapping[str, Tensor], ratios: Sequence[float]) -> Figure:
    """Probabilities of one group's candidates under several settings, a panel for each.

    Args:
        choices: title -> probabilities, shape (J,); at most four panels are readable.
        ratios: keep ratio of every candidate, rising.
    """
    figure = blank_figure(2.6 * len(choices) + 0.6, 2.8)
    panels = figure.subplots(1, len(choices), squeeze=False, sharey=True)[0]
    width = 0.8 * min(b - a for a, b in pairwise(ratios))
    for axes, (title, pi), colour in zip(panels, choices.items(), COLOURS, strict=False):
        axes.bar(list(ratios), pi.tolist(), width=width, color=colour)
        expected = sum(p * r for p, r in zip(pi.tolist(), ratios, strict=True))
        axes.axvline(expected, color=INK, linestyle="--", linewidth=1)
        axes.set_title(title, fontsize=9)
        axes.set(xlabel="keep ratio of the candidate", ylim=(0, 1))
        open_axes(axes)
    panels[0].set_ylabel("probability (dashed: expected)")
    return figure


def budgets_figure(paths: Mapping[str, Sequence[float]], budget: float) -> Figure:
    """Cost of several searches over their updates, and the budget as a line.

    Args:
        paths: label -> expected cost after each update, of the dense network.
        budget: what was asked, in (0, 1].
    """
    figure = blank_figure(6.4, 3.2)
    axes = figure.add_subplot()
    for (name, costs), colour in zip(paths.items(), COLOURS, strict=False):
        axes.plot(range(1, len(costs) + 1), list(costs), color=colour, label=name)
    axes.axhline(budget, color=INK, linestyle="--", linewidth=1, label="budget")
    axes.set(
        xlabel="update of the choices", ylabel="expected MACs, of the dense network", ylim=(0, 1.05)
    )
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    open_axes(axes)
    return figure


def methods_figure(scores: Mapping[str, Sequence[float]], *, label: str, dense: float) -> Figure:
    """Scores of several methods, one dot a seed, the mean as a bar.

    Args:
        scores: method -> score of each seed, in the same order of seeds.
        label: of the axis, with unit.
        dense: mean score of the dense network, drawn as a line.
    """
    figure = blank_figure(7.0, 0.5 * len(scores) + 1.4)
    axes = figure.add_subplot()
    for place, (values, colour) in enumerate(zip(scores.values(), COLOURS, strict=False)):
        mean = sum(values) / len(values)
        axes.plot(list(values), [place] * len(values), "o", color=colour, ms=5, alpha=0.75)
        axes.plot([mean, mean], [place - 0.3, place + 0.3], color=colour, linewidth=2.5)
    axes.axvline(dense, color=INK, linestyle="--", linewidth=1, label="dense, mean")
    axes.set_yticks(range(len(scores)), list(scores))
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.legend(frameon=False, fontsize=8)
    open_axes(axes)
    return figure
