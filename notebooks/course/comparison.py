"""Runs of several methods beside each other and beside the paper's, as tables for a notebook."""

from collections.abc import Callable, Sequence
from itertools import product
from statistics import fmean
from typing import Any

from course.estimate import Estimate, difference, verdict
from dsa_core.lab.paper_results import NEAREST, RESULTS, SAME_BUDGET, PaperResult, nearest_result
from dsa_core.lab.record import Record
from dsa_core.lab.report import cpu_seconds, pace, score, spread, task_of

NOTHING = "-"


def before(record: Record) -> float:
    """Score of the cut network, in the score's unit."""
    return score(record, "pruned")


def after(record: Record) -> float:
    """Score after fine-tuning, in the score's unit."""
    return score(record, "fine_tuned")


def drop(record: Record) -> float:
    """What the dense network scores more than the fine-tuned one; NaN without a dense one."""
    return score(record, "dense") - after(record)


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


def lead(
    value: Callable[[Record], float],
    records: Sequence[Record],
    ratio: float,
    rival: str = "uniform",
) -> Estimate:
    """Mean of DSA's runs minus that of the rival's, by a score such as `after`, at one budget."""
    sides = [[value(r) for r in select(records, method, ratio)] for method in ("dsa", rival)]
    return difference(*sides)


def judged(claim: str, found: Estimate, *, more_than: float = 0.0) -> list[str]:
    """A row of a table of verdicts: the claim, what was found, whether it holds."""
    return [claim, found.as_difference, verdict(found, more_than=more_than)]


def beside_paper(
    records: Sequence[Record], model: str, methods: Sequence[str], ratios: Sequence[float]
) -> list[list[str]]:
    """The paper's table for a network, with what was measured here beside it; its head first.

    A row for each budget and method asked for, whether or not there are records, and for each
    other method that the paper lists at the budget. What is missing is a dash, such as the drop of
    a search from random weights; "+" is a budget missed by some run.

    Args:
        records: runs of this network with one preset, of any methods, budgets and seeds.
        model: by our name.
        methods: rows of each budget.
        ratios: budgets, in the order of the table.
    """
    head = ["asked %", "method", "n", "MACs %", "latency %", "CPU s", "before", "after", "drop"]
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
    """n, MACs, latency, CPU seconds, and scores, of one method at one budget."""
    if not runs:
        return [NOTHING] * 7
    over = "" if all(r.budget_met for r in runs) else "+"
    macs = f"{fmean(100 * r.costs['macs'].ratio for r in runs):.1f}{over}"
    took = [spread(map(value, runs), 0) for value in (pace, cpu_seconds)]
    scores = [spread(map(value, runs), 2) for value in (before, after, drop)]
    return [str(len(runs)), macs, *took, *scores]


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

    Multiples are of CPU seconds: wall-clock ones depend on what else the machine did.
    They are of runs on the same device, and only of runs that have them. Rows without a run are
    left out.

    Args:
        records: runs of one network with one preset.
        methods, ratios: rows, in the order of the table.
    """
    head = ["asked %", "method", "n", "trials", "search epochs", "search, wall-clock s", "CPU: n"]
    lines = [[*head, "search, CPU s", "search x DSA", "in all, CPU s", "in all x DSA"]]
    for ratio in ratios:
        for method in methods:
            runs = select(records, method, ratio)
            if runs:
                timed = processor_row(runs, records)
                lines.append([f"{100 * ratio:.3g}", method, str(len(runs)), *effort(runs), *timed])
    return lines


def effort(runs: Sequence[Record]) -> list[str]:
    """Mean trials and epochs of the search, and the least and most wall-clock seconds."""
    trials = fmean(r.trials for r in runs)
    epochs = fmean(r.epochs["search"] for r in runs)
    clock = sorted({f"{r.seconds['search']:.0f}" for r in runs}, key=float)
    return [f"{trials:.1f}", f"{epochs:.0f}", " to ".join(dict.fromkeys((clock[0], clock[-1])))]


def processor_row(runs: Sequence[Record], records: Sequence[Record]) -> list[str]:
    """n, then seconds of the search, and with fine-tuning, beside their multiples of DSA's."""
    timed = [r for r in runs if r.processor_seconds]
    if len({r.device for r in timed}) != 1:
        return [NOTHING] * 5
    of_dsa = [r for r in records if r.method == "dsa" and r.processor_seconds]
    rivals = [r for r in of_dsa if task_of(r) == task_of(timed[0])]
    texts = [str(len(timed))]
    for seconds in (processor_search, cpu_seconds):
        ours, theirs = [*map(seconds, timed)], [*map(seconds, rivals)]
        times = f"{fmean(ours) / fmean(theirs):.2f}" if theirs else NOTHING
        texts += [spread(ours, 0), times]
    return texts


def processor_search(record: Record) -> float:
    """Of all threads during the search."""
    return record.processor_seconds["search"]


def flows(records: Sequence[Record]) -> list[list[Record]]:
    """Runs of one method with the same settings, those of most runs first, then the cheapest.

    Only runs of one trial that have CPU seconds.
    """
    by: dict[tuple[str, str], list[Record]] = {}
    for r in records:
        if r.processor_seconds and r.trials == 1:
            by.setdefault((r.method, r.preset), []).append(r)
    return sorted(by.values(), key=lambda runs: (-len(runs), seconds_of(runs)))


def seconds_of(runs: Sequence[Record]) -> float:
    """Mean CPU seconds of search and fine-tuning."""
    return fmean(map(cpu_seconds, runs))


def equal_in(ours: Sequence[Record], theirs: Sequence[Record], tolerance: float = 0.2) -> str:
    """What two flows spend alike: "epochs" within 5 %, "CPU seconds" within the tolerance, both."""
    epochs = sum(epochs_of(theirs[0])) / sum(epochs_of(ours[0]))
    seconds = seconds_of(theirs) / seconds_of(ours)
    alike = {"epochs": abs(epochs - 1) <= 0.05, "CPU seconds": abs(seconds - 1) <= tolerance}
    return ", ".join(what for what, equal in alike.items() if equal)


def epochs_of(record: Record) -> tuple[float, int]:
    """Passes over the whole training set in the search and in fine-tuning.

    A search that trains the weights on a share of the data makes that share of a pass.
    """
    preset: Any = record.config.get("preset", {})
    share = preset.get("weights_fraction", 1.0)
    return record.epochs["search"] * share, record.epochs["fine_tune"]


def parts(record: Record) -> str:
    """Epochs of the search and of fine-tuning, such as "0.25+8"."""
    return "+".join(f"{n:g}" for n in epochs_of(record))


def beside(ours: Sequence[Record], theirs: Sequence[Record]) -> list[str]:
    """Epochs, CPU seconds, and latency in % of the dense network's, each as "ours / theirs"."""
    each = [
        (parts(runs[0]), f"{seconds_of(runs):.0f}", f"{fmean(map(pace, runs)):.0f}")
        for runs in (ours, theirs)
    ]
    return [" / ".join(both) for both in zip(*each, strict=True)]


def paired(ours: Sequence[Record], theirs: Sequence[Record]) -> list[float]:
    """Score of ours minus theirs after fine-tuning, for each seed that both have."""
    rivals = {r.seed: after(r) for r in theirs}
    return [after(r) - rivals[r.seed] for r in ours if r.seed in rivals]


def equal_cost(
    records: Sequence[Record], ratios: Sequence[float], method: str = "dsa"
) -> list[tuple[float, list[Record], list[Record], str]]:
    """Budget, runs of the method, runs of a rival, and what both spend alike; a row a rival.

    Runs of another number format may be of another processor: they are not compared.

    Args:
        records: runs of one network, with any settings.
        ratios: budgets.
        method: whose flow of most runs the others are held against.
    """
    rows: list[tuple[float, list[Record], list[Record], str]] = []
    formats = sorted({r.precision for r in records})
    for ratio, precision in product(ratios, formats):
        every = flows([r for r in select(records, ratio=ratio) if r.precision == precision])
        ours = next((runs for runs in every if runs[0].method == method), [])
        for theirs in every:
            if not ours or theirs[0].method == method or not paired(ours, theirs):
                continue
            if alike := equal_in(ours, theirs):
                rows.append((ratio, ours, theirs, alike))
    return rows
