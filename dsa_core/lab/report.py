"""Tables of records: a row per method and budget, mean and spread over seeds."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table

from dsa_core.errors import ConfigError
from dsa_core.lab.data import in_unit
from dsa_core.lab.paper_results import paper_result, shown
from dsa_core.lab.record import Record


def asked(r: Record) -> str:
    """The budget, with divisor and floors."""
    divisor = f", in {r.divisor}s" if r.divisor > 1 else ""
    ratios = " + ".join(f"{100 * ratio:g} {resource}" for resource, ratio in r.asked.items())
    return f"{ratios}{divisor}{', floors' if r.floors else ''}"


def task_of(r: Record) -> tuple[object, ...]:
    """What must agree for the seconds of two methods to be compared."""
    floors = tuple(sorted(r.floors.items()))
    return r.model, r.dataset, r.preset, *r.asked.items(), r.divisor, floors, r.device


def paper(r: Record) -> str:
    """The DSA paper's result for the same network, data, method and budget; "" for none."""
    if r.divisor > 1 or r.floors or r.also_asked:
        return ""
    found = paper_result(r.model, r.dataset, r.method, resource=r.resource, ratio=r.asked_ratio)
    return shown(found)


def pace(r: Record) -> float:
    """Time of a forward pass as % of the dense network's, measured in the same run."""
    return 100 * r.latency["pruned"].median_ms / r.latency["dense"].median_ms


def cpu_seconds(r: Record) -> float:
    """CPU time of all threads after the dense training, in seconds; NaN in older records."""
    parts = [s for phase, s in r.processor_seconds.items() if phase != "dense"]
    return sum(parts) if parts else math.nan


def score(r: Record, state: str) -> float:
    """Score of the dense, pruned or fine_tuned network, in its unit; NaN for none."""
    value = getattr(r.scores, state)
    return math.nan if value is None else in_unit(value, r.score_unit)


SHARED: dict[str, Callable[[Record], object]] = {  # by all runs of a row
    "network": lambda r: r.model,
    "data": lambda r: r.dataset,
    "preset": lambda r: r.preset,
    "resource": lambda r: r.resource,
    "less": lambda r: -r.asked_ratio,
    "coarser": lambda r: -r.divisor,
    "method": lambda r: r.method,
    "series": lambda r: r.series,
    "device": lambda r: r.device,
    "start": lambda r: repr([r.config.get(k) for k in ("weights", "calibration", "floors")]),
}
NUMBERS: dict[str, tuple[int, Callable[[Record], float]]] = {  # decimals, value
    "MACs %": (2, lambda r: 100 * r.costs["macs"].ratio),
    "MACs M": (3, lambda r: r.costs["macs"].counted / 1e6),
    "params %": (2, lambda r: 100 * r.costs["params"].ratio),
    "dense": (2, lambda r: score(r, "dense")),
    "before": (2, lambda r: score(r, "pruned")),
    "after": (2, lambda r: score(r, "fine_tuned")),
    "masked loss": (3, lambda r: r.scores.masked_loss),
    "ms dense": (1, lambda r: r.latency["dense"].median_ms),
    "ms pruned": (1, lambda r: r.latency["pruned"].median_ms),
    "latency %": (0, pace),
    "CPU s": (0, cpu_seconds),
    "trials": (1, lambda r: r.trials),
    "search epochs": (0, lambda r: r.epochs["search"]),
    "search s": (0, lambda r: r.seconds["search"]),
    "total s": (0, lambda r: r.total_seconds),
}
WORDS = ["network", "data", "preset", "method"]  # left-aligned
Columns = Literal["results", "cost", "status", "overview"]
TABLES: dict[Columns, list[str]] = {
    "results": [
        *(*WORDS, "seeds", "asked %", "MACs %", "MACs M", "params %", "met"),
        *("dense", "before", "after", "paper", "masked loss", "ms dense", "ms pruned"),
        *("CPU s", "search s", "total s"),
    ],
    "cost": [
        *(*WORDS, "seeds", "asked %", "MACs %", "latency %", "met"),
        *("before", "after", "trials", "CPU s", "search epochs"),
        *("search s", "search x DSA", "total s", "total x DSA"),
    ],
    "status": [
        *("network", "data", "preset", "asked %", "method", "seeds", "MACs %", "latency %"),
        *("CPU s", "met", "dense", "before", "after"),
    ],
}
BEGIN, END = "<!-- dsa report: begin -->", "<!-- dsa report: end -->"
SCORES = "before, after: test {score} before and after fine-tuning"
CAPTIONS: dict[Columns, str] = {
    "results": f"{SCORES}. MACs %, params %: counted on the pruned network. ms: forward pass of "
    "{batch} examples. CPU s: search and fine-tuning.",
    "cost": f"{SCORES}. latency: % of the dense network's. CPU s: search and fine-tuning; "
    "search s, epochs: of all trials together; total s: dense training, search and fine-tuning; "
    "x DSA: as a multiple of DSA's mean on the same device.",
    "status": f"{SCORES}; mean ± sample standard deviation over seeds. latency: % of the dense "
    "network's, in the same run. CPU s: of search and fine-tuning; they differ from day to day. "
    "met: whether the counted cost is within what was asked.",
    "overview": "Test {score} after fine-tuning: mean ± sample standard deviation over seeds, and "
    "their number in brackets, + marks a budget that a run missed; then latency in % of the dense "
    "network's, and CPU seconds of search and fine-tuning where they are known. asked: % of the "
    "dense network.",
}
PAPER_CAPTION = (
    " paper: accuracy in % at % of the FLOPs, as Ning et al. report it (arXiv:2004.02164), after "
    "300 epochs; * quoted there."
)


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """A row per run: the columns that define its row in a table, and all numbers."""
    values = {name: value for name, (_, value) in NUMBERS.items()}
    columns = {**SHARED, **values, "asked %": asked, "paper": paper, "task": task_of}
    runs = pd.DataFrame({name: [of(r) for r in records] for name, of in columns.items()})
    return runs.assign(met=[r.budget_met for r in records])


def rows_of(records: Sequence[Record]) -> pd.DataFrame:
    """A row of texts for each set of runs that differ only in their seed."""
    rows = frame(records).groupby(list(SHARED))
    spreads = {name: partial(spread, digits=digits) for name, (digits, _) in NUMBERS.items()}
    table = rows.agg(
        {**spreads, "asked %": "first", "paper": "first", "task": frozenset, "met": budget_state}
    )
    table["seeds"] = rows.size().astype(str)
    for phase in ("search", "total"):
        table[f"{phase} x DSA"] = times_dsa(table["task"], rows[f"{phase} s"].mean())
    return table.reset_index()


def spread(values: Iterable[float], digits: int) -> str:
    """Mean, with the sample standard deviation if there are several; a dash if one is missing."""
    each = np.array([*values], dtype=float)
    if np.isnan(each).any():
        return "-"
    text = f"{each.mean():.{digits}f}"
    return text if len(each) == 1 else f"{text} ± {each.std(ddof=1):.{digits}f}"


def budget_state(met: pd.Series) -> str:
    """How many seeds met the budget: "yes", "MISSED", or "2 of 3"."""
    if met.all():
        return "yes"
    return f"{met.sum()} of {len(met)}" if met.any() else "MISSED"


def times_dsa(tasks: pd.Series, seconds: pd.Series) -> list[str]:
    """Mean seconds of each row as a multiple of those of the one row of DSA for the same task.

    For DSA's own rows it is 1. A dash where no DSA row, or more than one, has the task.
    """
    dsa = tasks.index.get_level_values("method") == "dsa"
    alone = dsa & ~tasks.where(dsa).duplicated(keep=False)
    rivals = tasks.map(dict(zip(tasks[alone], seconds[alone], strict=True))).astype(float)
    times = seconds / rivals.mask(dsa, seconds)
    return [f"{each:.2f}" if each == each else "-" for each in times]


def table_of(records: Sequence[Record], table: Columns = "results") -> pd.DataFrame:
    """The table as texts; the column of the paper only if it has entries."""
    rows = rows_of(records)
    if table == "overview":
        return overview(rows, frame(records))
    return rows[[name for name in TABLES[table] if name != "paper" or rows["paper"].any()]]


def overview(rows: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """A row per method and a column per budget.

    Runs of one cell that differ in more than the seed get separate rows. The dense score is the
    mean over the runs of a row.
    """
    missed = np.where(rows["met"] == "yes", "", "+")
    share, seconds = (rows[name].str.partition()[0] for name in ("latency %", "CPU s"))
    rows["cell"] = rows["after"] + " (" + rows["seeds"] + ")" + missed
    rows["cell"] += "; " + share + " %" + np.where(seconds == "-", "", ", " + seconds + " s")
    alike = [*WORDS, "device", "start"]
    rows["line"] = rows.groupby([*alike, "asked %"]).cumcount()
    line = [*alike, "line"]
    lines = runs.merge(rows[[*SHARED, "line"]]).groupby(line)
    dense = lines["dense"].agg(lambda values: spread([values.mean(skipna=False)], 2))
    budgets = rows.sort_values(["resource", "less"], kind="stable")["asked %"].unique()
    cells = rows.pivot(index=line, columns="asked %", values="cell")[budgets].fillna("")
    wide = pd.concat([dense, cells.add_prefix("asked ")], axis=1)
    return wide.reset_index().drop(columns=["device", "start", "line"])


def cells(records: Sequence[Record], table: Columns = "results") -> list[list[str]]:
    """The table as rows, the header first."""
    found = table_of(records, table)
    return [list(found), *found.to_numpy().tolist()]


def caption(records: Sequence[Record], table: Columns = "results") -> str:
    """What the columns mean."""
    scores = " or ".join(sorted({f"{each.score_name} in {each.score_unit}" for each in records}))
    batches = " or ".join(map(str, sorted({each.latency["dense"].batch for each in records})))
    text = CAPTIONS[table].format(score=scores, batch=batches)
    return text + PAPER_CAPTION * (table == "results" and any(map(paper, records)))


def as_table(records: Sequence[Record], *, width: int, table: Columns = "results") -> Table:
    """A table for the terminal; transposed if the terminal is too narrow.

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
    """The table and its caption as Markdown."""
    return f"{markdown(cells(records, table))}\n\n{caption(records, table)}"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Rows of a table, the header first, as Markdown."""
    head, *rows = lines
    marked = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in marked)


def put_into(page: str, table: str) -> str:
    """Replace the text between the two marks of a page by a table.

    Raises:
        ConfigError: the page does not have each mark once, in this order.
    """
    head, first, rest = page.partition(BEGIN)
    _, second, tail = rest.partition(END)
    if not (first and second) or BEGIN in rest or END in head + tail:
        raise ConfigError(f"the page needs one line {BEGIN} and, below it, one line {END}")
    return f"{head}{BEGIN}\n\n{table}\n\n{END}{tail}"


def as_csv(records: Sequence[Record], table: Columns = "results") -> str:
    """The table as CSV."""
    return table_of(records, table).to_csv(index=False, lineterminator="\n")
