"""Two drawings as SVG: a network with its widths, and score against cost.

SVG in the ink of the page and not a figure: it follows a slider in a millisecond, reads in a dark
theme, and tells a screen reader what it shows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from course.figures.frontier import Frontier, Point
from dsa_core.lab.plots.style import COLOURS, METHODS

WIDTH = 440  # of both drawings; they grow and shrink with their place on the page
TALLEST, FLOOR, LETTERS = 84, 100, 46  # columns of a network, where they stand, room for names
LEFT, RIGHT, TOP, BOTTOM = 50, 424, 10, 176  # of the axes of a frontier
STEPS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # between two ticks of a score
TICKS = 5


def ink(method: str) -> str:
    """The colour of a method; of one without, that of the page's letters."""
    return COLOURS[METHODS.index(method)] if method in METHODS else "currentColor"


def svg(height: int, label: str, *parts: str) -> str:
    """A drawing that says what it shows."""
    return (
        f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {WIDTH} {height}">'
        f"{''.join(parts)}</svg>"
    )


def network_svg(
    method: str, names: Sequence[str], sizes: Sequence[int], counts: Sequence[int]
) -> str:
    """A column for each channel group, in order of depth: dense outline, kept filled.

    Args:
        method: whose colour it has.
        names, sizes, counts: of every group: name, channels, channels kept.
    """
    step, unit = WIDTH / len(names), TALLEST / max(sizes)
    groups = enumerate(zip(names, sizes, counts, strict=True))
    columns = [column(i * step, step, unit, *group, ink(method)) for i, group in groups]
    kept = ", ".join(f"{n} {k} of {s}" for n, s, k in zip(names, sizes, counts, strict=True))
    height = FLOOR + LETTERS + 16
    return svg(height, f"channels kept by {method}: {kept}", *columns, stages(names, step))


def column(x: float, step: float, unit: float, name: str, size: int, kept: int, colour: str) -> str:
    """One group; `step` is the room it has, `unit` the height of a channel."""
    width, middle, letter = 0.7 * step, x + step / 2, min(10.0, 0.68 * step)
    place = f'x="{x + 0.15 * step:.1f}" width="{width:.1f}"'
    full, filled = size * unit, kept * unit
    short = name.partition(".")[2] or name
    return (
        f'<g data-group="{escape(name)}" data-kept="{kept}">'
        f"<title>{escape(name)}: {kept} of {size} channels</title>"
        f'<rect {place} y="{FLOOR - filled:.1f}" height="{filled:.1f}" fill="{colour}"/>'
        f'<rect {place} y="{FLOOR - full:.1f}" height="{full:.1f}" class="dense"/>'
        f'<text x="{middle:.1f}" y="{FLOOR - full - 3:.1f}" font-size="{letter:.1f}" '
        f'text-anchor="middle">{kept}</text>'
        f'<text transform="translate({middle + letter / 3:.1f} {FLOOR + 4}) rotate(-90)" '
        f'font-size="{letter:.1f}" text-anchor="end">{escape(short)}</text></g>'
    )


def stages(names: Sequence[str], step: float) -> str:
    """A line below the groups of each stage: those whose names begin alike."""
    parts, at = [], 0
    for stage, members in groupby(names, key=lambda name: name.partition(".")[0]):
        first, at = at, at + len([*members])
        if "." in names[first]:
            x1, x2, y = first * step + 3, at * step - 3, FLOOR + LETTERS
            parts.append(
                f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y}" y2="{y}" class="axis"/>'
                f'<text x="{(x1 + x2) / 2:.1f}" y="{y + 12}" font-size="11" '
                f'text-anchor="middle">{escape(stage)}</text>'
            )
    return "".join(parts)


@dataclass(frozen=True)
class Mark:
    """Where an allocation lies.

    Attributes:
        method: whose it is.
        cost, score: as ratios.
        measured: filled if this very allocation was trained, hollow if it was not.
    """

    method: str
    cost: float
    score: float
    measured: bool


@dataclass(frozen=True)
class Scale:
    """The axes: costs from 0 to 1, scores from `low` to `high` with a tick every `step`."""

    low: float
    high: float
    step: float

    @staticmethod
    def of(curves: Mapping[str, Frontier]) -> "Scale":
        """Round limits that hold all points with their spread, as far as that is below 100 %."""
        points = [p for points in curves.values() for p in points]
        low = min((p.score - p.spread for p in points), default=0.0)
        high = min(1.0, max((p.score + p.spread for p in points), default=1.0))
        step = next((s for s in STEPS if high - low <= TICKS * s), STEPS[-1])
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
        return Scale(low, max(high, low + step), step)

    @property
    def ticks(self) -> list[float]:
        """Scores at the ticks."""
        return [
            self.low + i * self.step for i in range(round((self.high - self.low) / self.step) + 1)
        ]

    def x(self, cost: float) -> float:
        """Pixels from the left."""
        return LEFT + cost * (RIGHT - LEFT)

    def y(self, score: float) -> float:
        """Pixels from the top."""
        return BOTTOM - (score - self.low) / (self.high - self.low) * (BOTTOM - TOP)


def frontier_svg(
    curves: Mapping[str, Frontier], marks: Sequence[Mark], *, shown: Sequence[str], score_name: str
) -> str:
    """Score against MACs, a line for each method; bars are one standard deviation over seeds.

    Args:
        curves: points by method, in rising order of cost.
        marks: what the controls ask for.
        shown: methods that stand out; the others are pale.
        score_name: of the vertical axis.
    """
    scale = Scale.of(curves)
    ordered = sorted(curves, key=lambda method: method in shown)  # those that stand out on top
    lines = [curve(scale, method, curves[method], pale=method not in shown) for method in ordered]
    facts = ", ".join(
        f"{m.method} {m.score:.1%} at {m.cost:.1%}{'' if m.measured else ', not measured'}"
        for m in marks
    )
    label = f"test {score_name} against MACs; {facts or 'no score is known'}"
    name = f"test {score_name} against MACs, share of dense"
    name += "; pale: other methods" * any(method not in shown for method in curves)
    return svg(BOTTOM + 36, label, axes(scale, name), *lines, *(ring(scale, m) for m in marks))


def axes(scale: Scale, name: str) -> str:
    """Two lines with their ticks, and what they are."""
    digits = 1 if scale.step < 0.01 else 0
    left = "".join(
        f'<line x1="{LEFT}" x2="{RIGHT}" y1="{scale.y(s):.1f}" y2="{scale.y(s):.1f}" class="grid"/>'
        f'<text x="{LEFT - 5}" y="{scale.y(s) + 4:.1f}" text-anchor="end">{s:.{digits}%}</text>'
        for s in scale.ticks
    )
    below = "".join(
        f'<text x="{scale.x(c / 100):.1f}" y="{BOTTOM + 15}" text-anchor="middle">{c}%</text>'
        for c in range(0, 101, 25)
    )
    return (
        f'<g font-size="11">{left}{below}<text x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 31}" '
        f'text-anchor="middle">{escape(name)}</text></g>'
    )


def curve(scale: Scale, method: str, points: Frontier, *, pale: bool) -> str:
    """The measured budgets of a method, joined by straight lines."""
    way = " ".join(f"{scale.x(p.cost):.1f},{scale.y(p.score):.1f}" for p in points)
    dots = "".join(dot(scale, p) for p in points)
    return (
        f'<g class="curve{" pale" if pale else ""}" stroke="{ink(method)}" fill="{ink(method)}">'
        f'<title>{escape(method)}</title><polyline fill="none" points="{way}"/>{dots}</g>'
    )


def dot(scale: Scale, p: Point) -> str:
    """A measured budget, with a bar over its seeds."""
    x, low, high = scale.x(p.cost), scale.y(p.score - p.spread), scale.y(p.score + p.spread)
    bar = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>' if p.spread else ""
    return f'{bar}<circle cx="{x:.1f}" cy="{scale.y(p.score):.1f}" r="2.5"/>'


def ring(scale: Scale, mark: Mark) -> str:
    """Where an allocation lies."""
    kind, fill = ("measured", ink(mark.method)) if mark.measured else ("guess", "none")
    return (
        f'<circle data-mark="{kind}" cx="{scale.x(mark.cost):.1f}" cy="{scale.y(mark.score):.1f}" '
        f'r="6" stroke="{ink(mark.method)}" stroke-width="2" fill="{fill}">'
        f"<title>{escape(mark.method)}, {kind}</title></circle>"
    )
