"""Records gathered into a table: one row for each method and budget, mean and spread over seeds."""

import csv
import io
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.table import Table
from scipy.special import stdtrit

from dsa_core.data import in_unit
from dsa_core.errors import ConfigError
from dsa_core.paper_results import (
    NEAREST,
    RESULTS,
    SAME_BUDGET,
    PaperResult,
    nearest_result,
    paper_result,
    shown,
)
from dsa_core.record import Record


@dataclass(frozen=True)
class Row:
    """Runs that differ in their seed only.

    Attributes:
        records: of the runs.
        rival: DSA's runs of the same network, data, preset and budget, on the same device; None if
            there are none.
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
    dsa = {task_of(row): row for row in rows if row[0].method == "dsa"}
    return [Row(row, dsa.get(task_of(row))) for row in rows]


def task_of(records: tuple[Record, ...]) -> tuple[object, ...]:
    """What must agree for the seconds of two methods to be compared."""
    r = records[0]
    asked = (r.resource, r.asked_ratio, r.divisor, tuple(sorted(r.floors.items())))
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
    return f"{100 * r.asked_ratio:g} {r.resource}{divisor}{', floors' if r.floors else ''}"


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
    if r.divisor > 1 or r.floors:
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
Columns = Literal["results", "cost", "status"]
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
PAPER_CAPTION = (
    " paper: accuracy in % at % of the FLOPs, as Ning et al. report it (arXiv:2004.02164), after "
    "300 epochs; * quoted there."
)


def cells(records: Sequence[Record], table: Columns = "results") -> list[list[str]]:
    """The table, its head first; without the column of the paper where that has nothing to say."""
    rows = rows_of(records)
    columns = {name: [column(row) for row in rows] for name, column in TABLES[table].items()}
    kept = {name: texts for name, texts in columns.items() if name != "paper" or any(texts)}
    return [list(kept), *(list(row) for row in zip(*kept.values(), strict=True))]


def caption(records: Sequence[Record], table: Columns = "results") -> str:
    """What the columns mean."""
    r = records[0]
    scores = " or ".join(sorted({f"{each.score_name} in {each.score_unit}" for each in records}))
    if table != "results":
        return {"cost": COST_CAPTION, "status": STATUS_CAPTION}[table].format(score=scores)
    text = CAPTION.format(score=scores, batch=r.latency["dense"].batch)
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


SURE = 0.95  # of all intervals
NOTHING = "-"


@dataclass(frozen=True)
class Estimate:
    """A mean, or a difference of two, and how sure it is.

    Attributes:
        mean: of the runs, or mean minus mean.
        n: runs; of a difference, of the side that has fewer.
        half: half the length of the 95 % interval; None where a side has one run only: one run
            has no spread.
        sd: sample standard deviation of the runs; None for one run and for a difference.
    """

    mean: float
    n: int
    half: float | None = None
    sd: float | None = None

    @property
    def text(self) -> str:
        """Mean, standard deviation if there is one, and n."""
        spread = "" if self.sd is None else f" ± {self.sd:.2f}"
        return f"{self.mean:.2f}{spread} (n = {self.n})"

    @property
    def as_difference(self) -> str:
        """With its sign and its interval."""
        if self.half is None:
            return f"{self.mean:+.2f} (n = {self.n})"
        low, high = self.mean - self.half, self.mean + self.half
        return f"{self.mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean of n values; its 95 % interval is  mean ± t sd / sqrt n,  t Student's with n - 1.

    Args:
        values: at least one.
    """
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return Estimate(mean, n)
    sd = statistics.stdev(values)
    return Estimate(mean, n, float(stdtrit(n - 1, (1 + SURE) / 2)) * sd / math.sqrt(n), sd)


def difference(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Mean of the first minus mean of the second, with Welch's 95 % interval.

    With e = sd^2 / n of each side, the standard error is sqrt(e1 + e2), and Student's t has
    (e1 + e2)^2 / (e1^2 / (n1 - 1) + e2^2 / (n2 - 1)) degrees of freedom. The spreads need not be
    equal. Source: B. L. Welch, Biometrika 34 (1947).

    Args:
        first, second: at least one value each.
    """
    mean = statistics.fmean(first) - statistics.fmean(second)
    n = min(len(first), len(second))
    if n == 1:
        return Estimate(mean, n)
    e1, e2 = (statistics.variance(side) / len(side) for side in (first, second))
    if e1 + e2 == 0:
        return Estimate(mean, n, 0.0)
    degrees = (e1 + e2) ** 2 / (e1**2 / (len(first) - 1) + e2**2 / (len(second) - 1))
    return Estimate(mean, n, float(stdtrit(degrees, (1 + SURE) / 2)) * math.sqrt(e1 + e2))


def verdict(found: Estimate | None, *, more_than: float = 0.0) -> str:
    """Whether a claim "this is more than that" holds, judged by the 95 % interval alone."""
    if found is None:
        return "no records"
    if found.half is None:
        return "not shown (n = 1)"
    if found.mean - found.half > more_than:
        return "holds here"
    if found.mean + found.half < more_than:
        return "does not hold"
    return "not shown (intervals overlap)"


def before(record: Record) -> float:
    """Score of the cut network, in the score's unit."""
    return in_unit(record.scores.pruned, record.score_unit)


def after(record: Record) -> float:
    """Score after fine-tuning, in the score's unit."""
    return in_unit(record.scores.fine_tuned, record.score_unit)


def drop(record: Record) -> float:
    """What the dense network scores more than the fine-tuned one; NaN without a dense one."""
    dense = record.scores.dense
    return math.nan if dense is None else in_unit(dense, record.score_unit) - after(record)


def select(
    records: Sequence[Record], method: str | None = None, ratio: float | None = None
) -> list[Record]:
    """Those of a method, of a budget, or of both; a third is written 0.333 or 1/3."""
    return [
        r
        for r in records
        if method in (None, r.method)
        and (ratio is None or abs(r.asked_ratio - ratio) < SAME_BUDGET)
    ]


def beside_paper(
    records: Sequence[Record], model: str, methods: Sequence[str], ratios: Sequence[float]
) -> list[list[str]]:
    """The paper's table for a network, with what was measured here beside it; its head first.

    A row for each budget and method asked for, whether or not there are records, and for each
    other method that the paper lists at the budget. What is missing is a dash; "+" is a budget
    missed by some run.

    Args:
        records: runs of this network with one preset, of any methods, budgets and seeds.
        model: by our name.
        methods: rows of each budget.
        ratios: budgets, in the order of the table.
    """
    head = ["asked %", "method", "n", "MACs %", "before", "after", "drop"]
    lines = [[*head, "paper: FLOPs %", "paper: accuracy", "paper: drop"]]
    listed = [r.method for r in RESULTS if r.model == NEAREST.get(model, model)]
    for ratio in ratios:
        for method in dict.fromkeys([*methods, *listed]):
            theirs = nearest_result(model, method, ratio=ratio)
            if method in methods or theirs:
                ours = measured(select(records, method, ratio))
                lines.append([f"{100 * ratio:.3g}", method, *ours, *stated(theirs)])
    return lines


def measured(runs: Sequence[Record]) -> list[str]:
    """n, MACs, score before and after fine-tuning, and its drop, of one method at one budget."""
    if not runs:
        return [NOTHING] * 5
    over = "" if all(r.budget_met for r in runs) else "+"
    macs = f"{statistics.fmean(100 * r.costs['macs'].ratio for r in runs):.1f}{over}"
    row = Row(tuple(runs))
    return [str(len(runs)), macs, *(row.show(value, "{:.2f}") for value in (before, after, drop))]


def stated(theirs: PaperResult | None) -> list[str]:
    """The paper's FLOPs, accuracy and drop; "*" is quoted there from elsewhere, "+" is missed."""
    if theirs is None:
        return [NOTHING] * 3
    loss = NOTHING if theirs.drop is None else f"{theirs.drop:.2f}"
    flops = f"{100 * theirs.reached:.1f}{'+' if theirs.missed else ''}"
    return [flops, f"{theirs.accuracy:.2f}{'*' if theirs.quoted else ''}", loss]


def processor_table(
    records: Sequence[Record], methods: Sequence[str], ratios: Sequence[float]
) -> list[list[str]]:
    """What each search took, its head first: trials, epochs, seconds, and multiples of DSA's.

    Multiples are of processor seconds: those of the clock depend on what else the machine did.
    They are of runs on the same device, and only of runs that have them. Rows without a run are
    left out.

    Args:
        records: runs of one network with one preset.
        methods, ratios: rows, in the order of the table.
    """
    head = ["asked %", "method", "n", "trials", "search epochs", "search s", "processor: n"]
    lines = [[*head, "search s", "x DSA", "in all s", "x DSA"]]
    for ratio in ratios:
        for method in methods:
            runs = select(records, method, ratio)
            if runs:
                timed = processor_row(runs, records)
                lines.append([f"{100 * ratio:.3g}", method, str(len(runs)), *effort(runs), *timed])
    return lines


def effort(runs: Sequence[Record]) -> list[str]:
    """Mean trials and epochs of the search, and the least and most seconds of the clock."""
    trials = statistics.fmean(r.trials for r in runs)
    epochs = statistics.fmean(r.epochs["search"] for r in runs)
    clock = sorted({f"{r.seconds['search']:.0f}" for r in runs}, key=float)
    return [f"{trials:.1f}", f"{epochs:.0f}", " to ".join(dict.fromkeys((clock[0], clock[-1])))]


def processor_row(runs: Sequence[Record], records: Sequence[Record]) -> list[str]:
    """n, then seconds of the search and in all with their multiples of DSA's, on one device."""
    timed = [r for r in runs if r.processor_seconds]
    if len({r.device for r in timed}) != 1:
        return [NOTHING] * 5
    ours = Row(tuple(timed), rival=rival_of(timed, records))
    texts = [str(len(timed))]
    for seconds in (processor_search, processor_in_all):
        texts += [ours.show(seconds, "{:.0f}"), times_dsa(ours, seconds)]
    return texts


def rival_of(timed: Sequence[Record], records: Sequence[Record]) -> tuple[Record, ...] | None:
    """DSA's runs of the same task and device that have processor seconds; None without any."""
    task = task_of(tuple(timed))
    same = (r for r in records if r.method == "dsa" and r.processor_seconds)
    return tuple(r for r in same if task_of((r,)) == task) or None


def processor_search(record: Record) -> float:
    """Of all threads during the search."""
    return record.processor_seconds["search"]


def processor_in_all(record: Record) -> float:
    """Of all threads in all phases."""
    return sum(record.processor_seconds.values())


def role_of(group: str) -> str:
    """What a group of our CIFAR ResNets does, from its name: as `sensitivity.role`, untraced.

    A group is named by its first layer. "stem" is the first convolution; "shortcut", a second
    convolution, to whose output a shortcut is added; "strided", the first one of a stage after the
    first; all others "inner", as in a network without blocks.
    """
    stage, *inside = group.split(".")
    if stage == "conv1":
        return "stem"
    if len(inside) != 2:
        return "inner"
    block, layer = inside
    if layer != "conv1":
        return "shortcut"
    return "strided" if block == "0" and stage != "layer1" else "inner"
