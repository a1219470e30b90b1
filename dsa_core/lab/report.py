"""Records gathered into a table: one row for each method and budget, mean and spread over seeds."""

import csv
import io
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.table import Table

from dsa_core.errors import ConfigError
from dsa_core.lab.data import in_unit
from dsa_core.lab.paper_results import paper_result, shown
from dsa_core.lab.record import Record


@dataclass(frozen=True)
class Row:
    """Runs that differ in their seed only.

    Attributes:
        records: of the runs.
        rival: DSA's runs of the same network, data, preset and budget, on the same device; of a row
            of DSA, itself. None if there are none, or several rows of them.
    """

    records: tuple[Record, ...]
    rival: tuple[Record, ...] | None = None

    @property
    def first(self) -> Record:
        """Any of them, for what they share."""
        return self.records[0]

    def show(self, value: Callable[[Record], float], form: str) -> str:
        """Mean over seeds, and the sample standard deviation where there are several."""
        values = [value(r) for r in self.records]
        mean = form.format(statistics.fmean(values))
        if len(values) == 1:
            return mean
        return f"{mean} ± {form.format(statistics.stdev(values))}"


def rows_of(records: Sequence[Record]) -> list[Row]:
    """Group records by everything but the seed, in the order of network, budget, method."""
    groups: dict[tuple[str | float, ...], list[Record]] = defaultdict(list)
    for r in records:
        budget = (r.resource, -r.asked_ratio, -r.divisor)
        groups[r.model, r.dataset, r.preset, *budget, r.method, r.series].append(r)
    rows = [tuple(groups[key]) for key in sorted(groups)]
    return [Row(row, rival_of(row, rows)) for row in rows]


def rival_of(
    row: tuple[Record, ...], rows: Sequence[tuple[Record, ...]]
) -> tuple[Record, ...] | None:
    """See `Row`."""
    if row[0].method == "dsa":
        return row
    task = task_of(row)
    dsa = [other for other in rows if other[0].method == "dsa" and task_of(other) == task]
    return dsa[0] if len(dsa) == 1 else None


def task_of(records: tuple[Record, ...]) -> tuple[object, ...]:
    """What must agree for the seconds of two methods to be compared."""
    r = records[0]
    asked = (*r.asked.items(), r.divisor, tuple(sorted(r.floors.items())))
    return r.model, r.dataset, r.preset, *asked, frozenset(each.device for each in records)


def times_dsa(row: Row, seconds: Callable[[Record], float]) -> str:
    """Mean seconds as a multiple of DSA's; a dash where there is nothing to compare with."""
    if row.rival is None:
        return "-"
    ours, theirs = (statistics.fmean(map(seconds, rs)) for rs in (row.records, row.rival))
    return f"{ours / theirs:.2f}"


def asked(row: Row) -> str:
    """The budget, and what else was asked of the channels kept."""
    r = row.first
    divisor = f", in {r.divisor}s" if r.divisor > 1 else ""
    ratios = " + ".join(f"{100 * ratio:g} {resource}" for resource, ratio in r.asked.items())
    return f"{ratios}{divisor}{', floors' if r.floors else ''}"


def budget_state(row: Row) -> str:
    """How many seeds met the budget: "yes", "MISSED", or "2 of 3"."""
    met = sum(r.budget_met for r in row.records)
    if met == len(row.records):
        return "yes"
    return "MISSED" if met == 0 else f"{met} of {len(row.records)}"


def dense_score(row: Row) -> str:
    """The dense network's score, or a dash for a search from random weights."""
    if row.first.scores.dense is None:
        return "-"
    return row.show(lambda r: in_unit(r.scores.dense or 0.0, r.score_unit), "{:.2f}")


def paper(row: Row) -> str:
    """What the DSA paper reports for the same network, data, method and budget; mostly nothing."""
    r = row.first
    if r.divisor > 1 or r.floors or r.also_asked:
        return ""
    found = paper_result(r.model, r.dataset, r.method, resource=r.resource, ratio=r.asked_ratio)
    return shown(found)


COLUMNS: dict[str, Callable[[Row], str]] = {
    "network": lambda row: row.first.model,
    "data": lambda row: row.first.dataset,
    "preset": lambda row: row.first.preset,
    "method": lambda row: row.first.method,
    "seeds": lambda row: str(len(row.records)),
    "asked %": asked,
    "MACs %": lambda row: row.show(lambda r: 100 * r.costs["macs"].ratio, "{:.2f}"),
    "MACs M": lambda row: row.show(lambda r: r.costs["macs"].counted / 1e6, "{:.3f}"),
    "params %": lambda row: row.show(lambda r: 100 * r.costs["params"].ratio, "{:.2f}"),
    "met": budget_state,
    "dense": dense_score,
    "before": lambda row: row.show(lambda r: in_unit(r.scores.pruned, r.score_unit), "{:.2f}"),
    "after": lambda row: row.show(lambda r: in_unit(r.scores.fine_tuned, r.score_unit), "{:.2f}"),
    "paper": paper,
    "masked loss": lambda row: row.show(lambda r: r.scores.masked_loss, "{:.3f}"),
    "ms dense": lambda row: row.show(lambda r: r.latency["dense"].median_ms, "{:.1f}"),
    "ms pruned": lambda row: row.show(lambda r: r.latency["pruned"].median_ms, "{:.1f}"),
    "search s": lambda row: row.show(lambda r: r.seconds["search"], "{:.0f}"),
    "total s": lambda row: row.show(lambda r: r.total_seconds, "{:.0f}"),
}
COST_COLUMNS: dict[str, Callable[[Row], str]] = {
    **{
        name: COLUMNS[name]
        for name in ("network", "data", "preset", "method", "seeds", "asked %", "MACs %", "met")
    },
    "before": COLUMNS["before"],
    "after": COLUMNS["after"],
    "trials": lambda row: row.show(lambda r: float(r.trials), "{:.1f}"),
    "search epochs": lambda row: row.show(lambda r: float(r.epochs["search"]), "{:.0f}"),
    "search s": COLUMNS["search s"],
    "search x DSA": lambda row: times_dsa(row, lambda r: r.seconds["search"]),
    "total s": COLUMNS["total s"],
    "total x DSA": lambda row: times_dsa(row, lambda r: r.total_seconds),
}
STATUS_COLUMNS: dict[str, Callable[[Row], str]] = {
    name: COLUMNS[name]
    for name in (
        *("network", "data", "preset", "asked %", "method", "seeds", "MACs %", "met"),
        *("dense", "before", "after"),
    )
}
Columns = Literal["results", "cost", "status", "overview"]
TABLES: dict[Columns, dict[str, Callable[[Row], str]]] = {
    "results": COLUMNS,
    "cost": COST_COLUMNS,
    "status": STATUS_COLUMNS,
}
BEGIN, END = "<!-- dsa report: begin -->", "<!-- dsa report: end -->"
WORDS = ("network", "data", "preset", "method")  # set flush left
CAPTION = (
    "before, after: test {score} before and after fine-tuning. MACs %, params %: counted on "
    "the pruned network. ms: forward pass of {batch} examples."
)
COST_CAPTION = (
    "before, after: test {score} before and after fine-tuning. search s, epochs: of all trials "
    "together; total s: dense training, search and fine-tuning; x DSA: as a multiple of DSA's mean "
    "on the same device."
)
STATUS_CAPTION = (
    "before, after: test {score} before and after fine-tuning; mean ± sample standard deviation "
    "over seeds. met: whether the counted cost is within what was asked."
)
OVERVIEW_CAPTION = (
    "Test {score} after fine-tuning: mean ± sample standard deviation over seeds, and their number "
    "in brackets; + marks a budget that a run missed. asked: % of the dense network."
)
CAPTIONS = {"cost": COST_CAPTION, "status": STATUS_CAPTION, "overview": OVERVIEW_CAPTION}
PAPER_CAPTION = (
    " paper: accuracy in % at % of the FLOPs, as Ning et al. report it (arXiv:2004.02164), after "
    "300 epochs; * quoted there."
)


def cells(records: Sequence[Record], table: Columns = "results") -> list[list[str]]:
    """The table, its head first; without the column of the paper where that has nothing to say."""
    if table == "overview":
        return overview(records)
    rows = rows_of(records)
    columns = {name: [column(row) for row in rows] for name, column in TABLES[table].items()}
    kept = {name: texts for name, texts in columns.items() if name != "paper" or any(texts)}
    return [list(kept), *(list(row) for row in zip(*kept.values(), strict=True))]


def overview(records: Sequence[Record]) -> list[list[str]]:
    """A line for each method and a column for each budget, its head first.

    Runs of one cell that differ in more than the seed stand in lines of their own.
    """
    rows = rows_of(records)
    order = sorted(rows, key=lambda row: (row.first.resource, -row.first.asked_ratio))
    budgets = list(dict.fromkeys(asked(row) for row in order))
    lines: dict[tuple[str, ...], list[dict[str, Row]]] = defaultdict(list)
    for row in rows:
        same = lines[tuple(COLUMNS[word](row) for word in WORDS)]
        free = next((line for line in same if asked(row) not in line), None)
        if free is None:
            same.append(free := {})
        free[asked(row)] = row
    head = [*WORDS, "dense", *(f"asked {b}" for b in budgets)]
    return [
        head,
        *(
            [*words, mean_dense(line.values()), *(outcome(line.get(b)) for b in budgets)]
            for words in sorted(lines)
            for line in lines[words]
        ),
    ]


def mean_dense(rows: Iterable[Row]) -> str:
    """The dense score, mean over the runs of some rows; a dash where one had no dense network."""
    runs = [r for row in rows for r in row.records]
    scores = [in_unit(r.scores.dense, r.score_unit) for r in runs if r.scores.dense is not None]
    return f"{statistics.fmean(scores):.2f}" if len(scores) == len(runs) else "-"


def outcome(row: Row | None) -> str:
    """Score after fine-tuning, with the number of seeds, and "+" where a run missed the budget."""
    if row is None:
        return ""
    missed = "" if all(r.budget_met for r in row.records) else "+"
    return f"{COLUMNS['after'](row)} ({len(row.records)}){missed}"


def caption(records: Sequence[Record], table: Columns = "results") -> str:
    """What the columns mean."""
    scores = " or ".join(sorted({f"{each.score_name} in {each.score_unit}" for each in records}))
    if table != "results":
        return CAPTIONS[table].format(score=scores)
    batches = sorted({each.latency["dense"].batch for each in records})
    text = CAPTION.format(score=scores, batch=" or ".join(map(str, batches)))
    return text + PAPER_CAPTION * any(paper(row) for row in rows_of(records))


def as_table(records: Sequence[Record], *, width: int, table: Columns = "results") -> Table:
    """For a terminal of some width; where it is too narrow, a column for each run.

    Args:
        records: at least one.
        width: columns of the terminal.
        table: which columns.
    """
    lines = cells(records, table)
    wide = sum(2 + max(map(len, column)) for column in zip(*lines, strict=True))
    if wide > width:
        lines = [list(line) for line in zip(*lines, strict=True)]
    screen = Table(box=box.SIMPLE_HEAD, caption=caption(records, table), pad_edge=False)
    for i, name in enumerate(lines[0]):
        left = i == 0 or (wide <= width and name in WORDS)
        screen.add_column(name, justify="left" if left else "right", overflow="fold")
    for line in lines[1:]:
        screen.add_row(*line)
    return screen


def as_markdown(records: Sequence[Record], table: Columns = "results") -> str:
    """For a README."""
    return f"{markdown(cells(records, table))}\n\n{caption(records, table)}"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Lines of a table, its head first, as Markdown."""
    head, *rows = lines
    marked = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in marked)


def put_into(page: str, table: str) -> str:
    """Replace what stands between the two marks of a page by a table.

    Raises:
        ConfigError: the page does not have each mark once, in this order.
    """
    head, first, rest = page.partition(BEGIN)
    _, second, tail = rest.partition(END)
    if not (first and second) or BEGIN in rest or END in head + tail:
        raise ConfigError(f"the page needs one line {BEGIN} and, below it, one line {END}")
    return f"{head}{BEGIN}\n\n{table}\n\n{END}{tail}"


def as_csv(records: Sequence[Record], table: Columns = "results") -> str:
    """For a spreadsheet."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows(cells(records, table))
    return buffer.getvalue()
