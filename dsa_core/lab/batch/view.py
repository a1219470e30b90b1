"""Views of a batch: the plan with an estimate, the live table, the failures."""

import statistics
import time
from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dsa_core.lab.batch.spec import BatchSpec
from dsa_core.lab.batch.state import RunState

STYLES = {"done": "green", "running": "bold", "failed": "red", "timeout": "red"}
BAD = ("failed", "timeout", "interrupted")
TO_DO = {
    "planned": "run",
    "running": "resume",
    "interrupted": "resume",
    "failed": "run again",
    "timeout": "resume",
    "done": "skip, done",
}
SHOWN = 30  # rows of a table that is redrawn each second


def plan(spec: BatchSpec, states: Sequence[RunState], workers: int) -> Table:
    """What a batch would do, and an estimate of its duration."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=estimate(spec, states, workers))
    table.add_column("run")
    table.add_column("what happens")
    for state in states:
        table.add_row(state.id, TO_DO[state.state])
    return table


def estimate(spec: BatchSpec, states: Sequence[RunState], workers: int) -> str:
    """Estimated duration, from finished runs of this batch, else from the batch file."""
    todo = sum(s.state != "done" for s in states)
    seconds = [s.seconds for s in states if s.state == "done"]
    if seconds:
        each, source = statistics.median(seconds), f"the median of {len(seconds)} finished runs"
    elif spec.minutes_each is not None:
        each, source = 60 * spec.minutes_each, "what the batch file says"
    else:
        return f"{todo} of {len(states)} runs to do; how long one takes is not known yet"
    rounds = -(-todo // workers)
    return (
        f"{todo} of {len(states)} runs to do, {workers} at a time, {duration(each)} each "
        f"({source}): about {duration(rounds * each)}"
    )


def duration(seconds: float) -> str:
    """A duration in a suitable unit."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def live_table(states: Sequence[RunState]) -> RenderableType:
    """The state of a batch: running and failed runs first, at most `SHOWN` rows."""
    order = {"running": 0, "failed": 1, "timeout": 1, "interrupted": 1, "done": 2, "planned": 3}
    ranked = sorted(states, key=lambda s: order[s.state])
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("run", "state", "epochs", "time", "left", "error"):
        table.add_column(name, overflow="ellipsis", no_wrap=True)
    for s in ranked[:SHOWN]:
        seconds = time.time() - s.started if s.state == "running" else s.seconds
        shown = "" if s.state == "planned" else duration(seconds)
        style = STYLES.get(s.state, "")
        table.add_row(s.id, Text(s.state, style=style), *epochs(s, shown), Text(s.error))
    return Group(table, Text(summary(states)))


def epochs(state: RunState, spent: str) -> tuple[str, str, str]:
    """Epochs done, the time spent, and about how long the others take; "" where nobody knows."""
    if not state.epochs:
        return str(state.epochs_done or ""), spent, ""
    left = (state.epochs - state.epochs_done) * state.epoch_seconds
    about = f"about {duration(left)}" if state.epochs_done else ""
    return f"{state.epochs_done} of {state.epochs}", spent, about


def summary(states: Sequence[RunState]) -> str:
    """The number of runs in each state."""
    names = ("done", "running", "planned", *BAD)
    counts = {name: sum(s.state == name for s in states) for name in names}
    return ", ".join(f"{n} {name}" for name, n in counts.items() if n)


def failures(states: Sequence[RunState]) -> str:
    """Every failed run with its cell and traceback; "" if there is none."""
    texts = [f"{s.id}: {s.state}: {s.error}\n{s.traceback}" for s in states if s.state in BAD]
    return "\n".join(text.rstrip() for text in texts)
