"""Channel groups drawn on the network: every group a wire, every layer a step from wire to wire."""

from collections.abc import Iterable
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dsa_core.channels import ChannelGraph
from dsa_core.lab.plots.style import COLOURS, DENSE, blank_figure

INK = "#333333"
WIRE_COLOURS = COLOURS[:6]  # the seventh, yellow, is hard to see on white
STAYS = "#666666"


@dataclass(frozen=True)
class Wire:
    """A group on the picture.

    Attributes:
        label: its number, first layer and size.
        first: place of the first layer that makes or reads it, in the order of the network.
        last: place of the last one.
        tied: how many layers make it.
        pruned: whether its channels can go; False for the two grey wires of what stays.
    """

    label: str
    first: int
    last: int
    tied: int
    pruned: bool


@dataclass(frozen=True)
class Step:
    """A layer on the picture: the wires it reads and the wires it makes, by number.

    A depthwise convolution makes and reads none: `reads` and `makes` are both the wires it lies on.
    """

    name: str
    kind: str
    reads: tuple[int, ...]
    makes: tuple[int, ...]


def wiring(graph: ChannelGraph) -> tuple[list[Wire], list[Step]]:
    """Say which layer reads and makes which group: all that the picture shows.

    Returns:
        Wires: number 0 is what the network is fed, then the prunable groups in order, then what
        stays (the output, and what was frozen). Steps: the layers in order.
    """
    groups, steps = graph.prunable, []
    stays, frozen_before = len(groups) + 1, False
    for layer in graph.layers:
        makes = wires_of(layer.out_channels, graph, stays)
        source = stays if frozen_before else 0
        reads = makes if layer.in_channels is None else wires_of(layer.in_channels, graph, source)
        frozen_before |= stays in makes
        steps.append(Step(layer.name, layer.kind, reads, makes))
    labels = [f"{k}  {g.name}, {g.size}" for k, g in enumerate(groups)]
    wires = []
    for number, label in enumerate(["input", *labels, "output and what stays"]):
        touched = [i for i, s in enumerate(steps) if number in (*s.reads, *s.makes)]
        tied = sum(number in s.makes and s.reads != s.makes for s in steps)
        first, last = (touched[0], touched[-1]) if touched else (0, -1)
        wires.append(Wire(label, first, last, tied, 0 < number < stays))
    return wires, steps


def wires_of(channels: Iterable[int], graph: ChannelGraph, unpruned: int) -> tuple[int, ...]:
    """The wires that these flat channels lie on; `unpruned` stands for channels that stay."""
    bounds = graph.offsets
    found = {int((bounds[1:] <= c).sum()) + 1 if c >= 0 else unpruned for c in map(int, channels)}
    return tuple(sorted(found))


def graph_figure(graph: ChannelGraph, *, title: str = "") -> Figure:
    """Draw the network with its groups as coloured wires.

    From left to right the layers, in order. A layer is an arrow from each wire it reads to the wire
    it makes. Where several arrows end on one wire, several layers make the same channels: they are
    tied, and their wire is thick. A square on a wire is a depthwise convolution.

    Args:
        graph: of the network.
        title: above the picture.
    """
    wires, steps = wiring(graph)
    shown = [i for i, wire in enumerate(wires) if wire.last >= 0]
    row = {number: -place for place, number in enumerate(shown)}
    figure = blank_figure(max(6.0, 0.26 * len(steps) + 2.8), 0.32 * len(shown) + 1.8)
    axes = figure.add_subplot()
    colour = {number: wire_colour(number, wires[number]) for number in shown}
    for number in shown:
        draw_wire(axes, wires[number], row[number], colour[number])
    for place, step in enumerate(steps):
        draw_step(axes, place, step, row, colour)
    axes.set_xticks(range(len(steps)), [s.name for s in steps], rotation=90, fontsize=7)
    axes.set_yticks([row[n] for n in shown], [wires[n].label for n in shown], fontsize=8)
    for tick, number in zip(axes.get_yticklabels(), shown, strict=True):
        tick.set_color(colour[number])
    axes.set_xlabel("layers, in the order of the network")
    axes.set_ylabel("group: number, first layer, channels", fontsize=9)
    axes.set_xlim(-0.8, len(steps) - 0.2)
    axes.set_title(title, fontsize=10)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def wire_colour(number: int, wire: Wire) -> str:
    """Neighbouring groups differ; what cannot be pruned is grey."""
    return WIRE_COLOURS[(number - 1) % len(WIRE_COLOURS)] if wire.pruned else STAYS


def draw_wire(axes: Axes, wire: Wire, y: float, colour: str) -> None:
    """A line from the first layer that touches the group to the last, thick where layers are
    tied."""
    axes.axhline(y, color=DENSE, linewidth=0.4, zorder=0)
    width = 5.0 if wire.tied > 1 and wire.pruned else 2.0
    axes.plot(
        [wire.first - 0.4, wire.last + 0.4], [y, y], color=colour, linewidth=width, alpha=0.55,
        solid_capstyle="round", zorder=1,
    )  # fmt: skip


def draw_step(
    axes: Axes, place: int, step: Step, row: dict[int, int], colour: dict[int, str]
) -> None:
    """An arrow for a layer, in the colour of the group that it makes."""
    for made in step.makes:
        if step.reads == step.makes:
            axes.plot(place, row[made], marker="s", color=colour[made], markersize=6, zorder=3)
            continue
        for read in step.reads:
            arrow = {"arrowstyle": "-|>", "color": colour[made], "linewidth": 1.4}
            axes.annotate(
                "", xy=(place, row[made]), xytext=(place, row[read]), arrowprops=arrow, zorder=2
            )
            axes.plot(place, row[read], marker="o", color=colour[read], markersize=3.5, zorder=3)
