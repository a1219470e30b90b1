"""What the explorer shows, as HTML: numbers, a bar for each group, a mark on the frontier.

HTML and not a figure, because it must follow a slider: a string takes a millisecond, a figure a
tenth of a second. White ground and dark ink are set, so that it reads in a dark page too.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from matplotlib.figure import Figure

from course.figures.frontier import frontier_figure, place_in
from course.widgets.explore import State, View
from course.widgets.live import LiveResult
from course.widgets.networks import Network
from dsa_core.budget import Resource
from dsa_core.lab.plots.style import COLOURS, DENSE, png

WORDS: dict[Resource, str] = {"macs": "MACs", "params": "parameters", "latency": "latency"}
SHEET = (
    "background:#fff;color:#222;font:14px/1.5 'DejaVu Sans',sans-serif;padding:12px;"
    "box-sizing:border-box;display:flex;flex-wrap:wrap;gap:16px"
)
CODE = "white-space:pre-wrap;background:#f4f4f4;color:#222;padding:8px;margin:4px 0"
COLUMN = "flex:1 1 360px;min-width:0"
CELL = "padding:1px 8px 1px 0;text-align:left;white-space:nowrap;color:#222;background:#fff"
WIDEST = 160  # pixels of the bar of the largest group


@dataclass(frozen=True)
class Backdrop:
    """The frontier, drawn once: the picture, and the figure that knows where a point lies on it."""

    picture: bytes
    figure: Figure

    @staticmethod
    def of(network: Network) -> "Backdrop":
        """Draw the frontiers of a network."""
        figure = frontier_figure(network.frontiers, score_name=network.score_name)
        return Backdrop(png(figure, dpi=100), figure)


def page(network: Network, state: State, view: View, backdrop: Backdrop) -> str:
    """Everything beside the controls."""
    groups = bars(view.names, view.sizes, view.counts)
    left = numbers(network, view) + source(view) + groups
    right = frontier(view, backdrop) + take_away(state, view)
    return sheet(f'<div style="{COLUMN}">{left}</div><div style="{COLUMN}">{right}</div>')


def live_page(result: LiveResult) -> str:
    """What a live run found."""
    found = result.allocation
    kept, dense = found.whole_cost("macs"), found.budget.cost(found.graph, "macs").dense
    rows = [
        ("MACs", f"{kept:,} of {dense:,}", f"{kept / dense:.1%}"),
        ("test accuracy", "dense", f"{result.dense:.1%}"),
        ("", "after the cut", f"{result.cut:.1%}"),
        ("", "after fine-tuning", f"{result.tuned:.1%}"),
    ]
    names = [group.name for group in found.graph.prunable]
    return sheet(table(rows), bars(names, found.graph.sizes.tolist(), found.counts.tolist()))


def sheet(*parts: str) -> str:
    """Dark ink on white."""
    return f'<div style="{SHEET}">{"".join(parts)}</div>'


def numbers(network: Network, view: View) -> str:
    """What is left of the network, and what it would score."""
    rows = [
        (WORDS[r], f"{u.kept:,} of {u.dense:,}", f"{u.ratio:.1%}") for r, u in view.used.items()
    ]
    kept, size = sum(view.counts), sum(view.sizes)
    rows.append(("channels", f"{kept:,} of {size:,}", f"{kept / size:.1%}"))
    rows.append((f"test {network.score_name}", *score(view)))
    return table(rows)


def table(rows: Sequence[tuple[str, str, str]]) -> str:
    """Rows of a name, some text, and the number that matters."""
    cells = "".join(
        f'<tr data-row="{escape(name)}"><th style="{CELL}">{escape(name)}</th>'
        f'<td style="{CELL}">{text}</td><td style="{CELL}"><b>{number}</b></td></tr>'
        for name, text, number in rows
    )
    return f'<table style="border-collapse:collapse;margin-bottom:8px">{cells}</table>'


def score(view: View) -> tuple[str, str]:
    """How the score is known, and the score: nothing is shown for what nobody trained."""
    if view.measured:
        return f"measured, seed {view.record.seed}", f"{view.record.scores.fine_tuned:.2%}"
    if view.predicted is None:
        return "not measured", "?"
    return "not measured; on the line between two measured budgets", f"~ {view.predicted.score:.1%}"


def bars(names: Sequence[str], sizes: Sequence[int], counts: Sequence[int]) -> str:
    """A row for each group: grey for its channels, coloured for those that stay."""
    unit = WIDEST / max(sizes)
    groups = zip(names, sizes, counts, strict=True)
    rows = "".join(bar(name, size, kept, unit) for name, size, kept in groups)
    head = f'<tr><th style="{CELL}">channel group</th><th style="{CELL}">channels kept</th></tr>'
    return f'<table style="border-collapse:collapse">{head}{rows}</table>'


def bar(name: str, size: int, kept: int, unit: float) -> str:
    """One row; `unit` is the width of a channel in pixels."""
    inner = f"width:{kept * unit:.1f}px;height:14px;background:{COLOURS[0]}"
    outer = f"width:{size * unit:.1f}px;height:14px;background:{DENSE};display:inline-block"
    return (
        f'<tr data-group="{escape(name)}" data-kept="{kept}"><td style="{CELL}">{escape(name)}'
        f'</td><td style="{CELL}"><span style="{outer};vertical-align:middle">'
        f'<span style="{inner};display:block"></span></span> {kept} of {size}</td></tr>'
    )


def source(view: View) -> str:
    """Which run the allocation comes from."""
    record, how = view.record, "the allocation of" if view.measured else "on the way of"
    return (
        f'<p style="margin:8px 0;color:#555">{how} the search by {escape(record.method)} that was '
        f"asked for {record.asked_ratio:.0%}, seed {record.seed}</p>"
    )


def take_away(state: State, view: View) -> str:
    """The allocation as JSON, and the Python that prunes a network with it."""
    kept = dict(zip(view.names, view.counts, strict=True))
    facts = {"method": state.method, state.resource: state.ratio, "channels": kept}
    code = (
        f"import dsa_core as dsa, torch\n"
        f"model = dsa.models.build({view.record.model!r})  # or yours, with trained weights\n"
        f"graph = dsa.trace(model, dsa.models.example_input({view.record.model!r}))\n"
        f"counts = torch.tensor({list(view.counts)})\n"
        f"keep = dsa.top_channels(dsa.importance(model, graph), counts, graph)\n"
        f"smaller = dsa.prune(model, graph, keep)"
    )
    return "".join(
        f'<details><summary>{name}</summary><pre style="{CODE}" data-take="{name}">{escape(text)}'
        f"</pre></details>"
        for name, text in (("JSON", json.dumps(facts)), ("Python", code))
    )


def frontier(view: View, backdrop: Backdrop) -> str:
    """The frontier with a ring where the network would lie; none where nothing was measured."""
    data = base64.b64encode(backdrop.picture).decode()
    image = (
        '<img alt="test score against MACs, measured" style="display:block;width:100%" '
        f'src="data:image/png;base64,{data}">'
    )
    return f'<div style="position:relative;max-width:600px">{image}{ring(view, backdrop)}</div>'


def ring(view: View, backdrop: Backdrop) -> str:
    """The mark, placed in parts of the picture's size: filled where measured, hollow where not."""
    cost = view.used["macs"].ratio
    if view.measured:
        height, fill = view.record.scores.fine_tuned, COLOURS[5]
    elif view.predicted is not None:
        height, fill = view.predicted.score, "transparent"
    else:
        return ""
    left, top = place_in(backdrop.figure, cost, height)
    return (
        f'<span data-mark="{"measured" if view.measured else "guess"}" style="position:absolute;'
        f"left:{100 * left:.2f}%;top:{100 * top:.2f}%;width:14px;height:14px;margin:-9px;"
        f'border-radius:50%;border:2px solid {COLOURS[5]};background:{fill}"></span>'
    )
