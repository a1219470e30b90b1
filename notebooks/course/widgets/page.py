"""What the explorer shows, as HTML: two networks, the frontier, numbers, what to take away.

A string takes a millisecond, a figure a tenth of a second. Colours are those of the theme.
"""

import json
import re
import shlex
import statistics
from collections.abc import Sequence
from html import escape
from operator import attrgetter

from course.widgets.drawing import Mark, frontier_svg, ink, network_svg
from course.widgets.explore import Answer, State, View, searches_of
from course.widgets.live import LiveResult
from course.widgets.networks import RESOURCES, Network
from dsa_core.budget import Resource
from dsa_core.lab.record import Record

WORDS: dict[Resource, str] = {"macs": "MACs", "params": "parameters", "latency": "latency"}
LINE = "on the line between two measured budgets"
# the theme's colours; `prefers-color-scheme` sets them where voila serves the page in its own
STYLE = """<style>
@media (prefers-color-scheme: dark) { :root:has(body[data-voila]) { color-scheme:dark;
  --jp-layout-color0:#111; --jp-layout-color1:#1b1b1b; --jp-layout-color2:#303030;
  --jp-layout-color3:#555; --jp-border-color0:#777; --jp-border-color1:#666;
  --jp-border-color2:#444; --jp-ui-font-color0:#fff; --jp-ui-font-color1:#ddd;
  --jp-ui-font-color2:#bbb; --jp-content-font-color0:#fff; --jp-content-font-color1:#ddd;
  --jp-widgets-input-background-color:#222; --jp-cell-editor-background:#222; } }
body[data-voila] h1, body[data-voila] h2 { font-size:20px; margin:0; }
.dsa-explorer { flex-flow:row wrap; }
.dsa-controls { flex:0 0 376px; flex-flow:column; }
.dsa-controls > * { width:370px !important; }
.dsa-controls .widget-toggle-buttons { display:flex; flex-flow:row nowrap; }
.dsa-controls .widget-label { text-align:right; }
.dsa-answer { flex:1 1 640px; min-width:0; }
.dsa-sheet { color:var(--jp-content-font-color1,#222); font:13px/1.45 sans-serif;
  display:flex; flex-wrap:wrap; gap:4px 20px; }
.dsa-sheet > div { flex:1 1 340px; min-width:0; }
.dsa-sheet svg { display:block; width:100%; max-width:600px; }
.dsa-sheet text { fill:currentColor; }
.dsa-sheet .dense { fill:none; stroke:currentColor; stroke-opacity:.6; }
.dsa-sheet .axis, .dsa-sheet .grid { stroke:currentColor; }
.dsa-sheet .grid { stroke-opacity:.15; }
.dsa-sheet .curve { stroke-width:2; } .dsa-sheet .pale { opacity:.25; stroke-width:1; }
.dsa-sheet table { table-layout:fixed; width:100%; max-width:600px; }
.dsa-sheet th, .dsa-sheet td { text-align:left; vertical-align:top; padding:1px 12px 1px 0;
  font-weight:normal; }
.dsa-sheet h3 { font-size:14px; margin:2px 0; }
.dsa-sheet small { opacity:.8; font-weight:normal; }
.dsa-sheet pre { white-space:pre-wrap; margin:0 0 8px; color:inherit; }
.dsa-sheet [role=alert] { border-left:4px solid #D55E00; padding:6px 8px; margin:4px 0 12px; }
@media (max-width:1100px) { .dsa-controls { flex:1 1 640px; flex-flow:row wrap; } }
</style>"""
# ipywidgets gives the handle of a slider no name of its own
LABELS = """<script>
new MutationObserver(() => document.querySelectorAll('.widget-slider').forEach(slider => {
  const name = slider.querySelector('.widget-label')?.textContent;
  slider.querySelectorAll('.noUi-handle, .widget-readout').forEach(part => part.ariaLabel = name);
})).observe(document.body, {childList: true, subtree: true});
</script>"""


def page(network: Network, answers: Sequence[Answer]) -> str:
    """Everything beside the controls, for one method or for two."""
    networks = "".join(drawn(answer) for answer in answers)
    methods = [answer.state.method for answer in answers]
    marks = [mark for answer in answers for mark in marks_of(answer)]
    score = network.score_name
    plot = frontier_svg(network.frontiers, marks, shown=methods, score_name=score)
    return sheet(f"<div>{networks}</div><div>{plot}{numbers(network, answers)}</div>")


def sheet(content: str) -> str:
    """In letters and colours of the theme."""
    return f'<div class="dsa-sheet">{content}</div>'


def drawn(answer: Answer) -> str:
    """The network that a method leaves, or why there is none."""
    view, method = answer.view, answer.state.method
    title = f'<h3><span style="color:{ink(method)}">■</span> {escape(method)}'
    if view is None:
        return f'{title}</h3><div role="alert">{escape(answer.problem)}</div>'
    how = "the allocation of" if view.measured else "read on the way of"
    source = f"{how} its search for {view.record.asked_ratio:.1%}, seed {view.record.seed}"
    plot = network_svg(method, view.names, view.sizes, view.counts)
    return f"{title} <small>{source}</small></h3>{plot}"


def marks_of(answer: Answer) -> list[Mark]:
    """Where it lies on the frontier; nothing where no score is known."""
    if (view := answer.view) is None:
        return []
    found = view.predicted.score if view.predicted else None
    known = view.record.scores.fine_tuned if view.measured else found
    if known is None:
        return []
    return [Mark(answer.state.method, view.used["macs"].ratio, known, view.measured)]


def numbers(network: Network, answers: Sequence[Answer]) -> str:
    """What is left of the network, and what it would score: a column for each method."""
    views = [answer.view for answer in answers]
    if not any(views):
        return ""
    head = ["", *(f"<b>{escape(answer.state.method)}</b>" for answer in answers)]
    names = [f"{WORDS[r]} <small>of {network.costs[r].dense:,}</small>" for r in RESOURCES]
    names += ["latency", f"channels <small>of {sum(network.costs['macs'].sizes):,}</small>"]
    names.append(f"test {network.score_name}")
    columns = [facts(network, view) if view else ["-"] * len(names) for view in views]
    return table(head, [list(row) for row in zip(names, *columns, strict=True)])


def facts(network: Network, view: View) -> list[str]:
    """A column of the table."""
    used = [f"<b>{u.ratio:.1%}</b> {u.kept:,}" for u in view.used.values()]
    kept = sum(view.counts)
    channels = f"<b>{kept / sum(view.sizes):.1%}</b> {kept:,}"
    return [*used, latency(view), channels, score(network, view)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of a name and what there is to say; cells are HTML."""
    text = "".join(
        f'<tr data-row="{row[0].partition(" <")[0]}"><th scope="row">{row[0]}</th>'
        f"{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>"
        for row in rows
    )
    names = "".join(f'<th scope="col">{name}</th>' for name in head)
    return f"<table><tr>{names}</tr>{text}</table>"


def latency(view: View) -> str:
    """Of the very network that was timed, beside the dense one."""
    if not view.measured:
        return "not measured"
    dense, pruned = view.record.latency["dense"], view.record.latency["pruned"]
    how = f"batch {pruned.batch}, {pruned.precision}, on {view.record.device}"
    return (
        f'<span title="{escape(how)}"><b>{pruned.median_ms / dense.median_ms:.0%}</b> '
        f"{pruned.median_ms:.1f} of {dense.median_ms:.1f} ms</span>"
    )


def score(network: Network, view: View) -> str:
    """The score, and how it is known: nothing is shown for what nobody trained."""
    record = view.record
    if not view.measured:
        found = view.predicted
        return f"<b>~ {found.score:.1%}</b> not measured; {LINE}" if found else "not measured"
    kind = attrgetter("resource", "asked_ratio", "series", "device")
    runs = [r for r in searches_of(network, record.method) if kind(r) == kind(record)]
    peers = [r.scores.fine_tuned for r in runs]
    text = f"<b>{record.scores.fine_tuned:.2%}</b> measured, seed {record.seed}"
    if len(peers) == 1:
        return text
    mean, spread = statistics.fmean(peers), statistics.stdev(peers)
    return f"{text} <small>(its {len(peers)} seeds: {mean:.2%} ± {spread:.2%})</small>"


def take_away(answer: Answer) -> str:
    """The allocation as JSON, the Python that prunes with it, and the command that searches it."""
    view, state = answer.view, answer.state
    if view is None:
        return ""
    record, kept = view.record, dict(zip(view.names, view.counts, strict=True))
    code = (
        f"import dsa_core as dsa, torch\n"
        f"model = dsa.models.build({record.model!r})  # or yours, with trained weights\n"
        f"graph = dsa.trace(model, dsa.models.example_input({record.model!r}))\n"
        f"counts = torch.tensor({list(view.counts)})\n"
        f"keep = dsa.top_channels(dsa.importance(model, graph), counts, graph)\n"
        f"smaller = dsa.prune(model, graph, keep)"
    )
    allocation = {"method": state.method, state.resource: state.ratio, "channels": kept}
    texts = {
        "The allocation": json.dumps(allocation),
        "Python that prunes with it": code,
        "A search of your own for this budget": search_command(record, state),
    }
    return sheet(
        "<div>"
        + "".join(
            f'{title}<pre data-take="{title}">{escape(text)}</pre>' for title, text in texts.items()
        )
        + "</div>"
    )


def search_command(record: Record, state: State) -> str:
    """The command that searches as the record's run did, for the budget of the controls."""
    preset, *changes = re.split(r" (?=[\w.]+=)", record.preset)
    words = {"preset": preset, "model": record.model, "dataset": record.dataset}
    words |= {"method": state.method, "budget": f"{state.resource}={state.ratio:g}"}
    options = [*words.items(), *(("set", change) for change in changes)]
    if record.config.get("weights"):
        options.append(("weights", "FILE"))
    if state.divisor > 1:
        options.append(("divisor", str(state.divisor)))
    floors = state.budget.floors.items()
    options += [("floor", f"{name}={floor:g}") for name, floor in floors if floor]
    return " ".join(["dsa run", *(f"--{name} {shlex.quote(word)}" for name, word in options)])


def live_page(result: LiveResult) -> str:
    """What a live run found."""
    found = result.allocation
    kept, dense = found.whole_cost("macs"), found.budget.cost(found.graph, "macs").dense
    rows = [
        ["MACs", f"<b>{kept / dense:.1%}</b> {kept:,} of {dense:,}"],
        ["test accuracy, dense", f"{result.dense:.1%}"],
        ["after the cut", f"{result.cut:.1%}"],
        ["after fine-tuning", f"<b>{result.tuned:.1%}</b>"],
    ]
    names = [group.name for group in found.graph.prunable]
    plot = network_svg(found.method, names, found.graph.sizes.tolist(), found.counts.tolist())
    return sheet(f"<div>{plot}</div><div>{table((), rows)}</div>")
