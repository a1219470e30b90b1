"""`dsa batch FILE.yaml`."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsa_core.errors import ConfigError
from dsa_core.lab.screen import console

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from rich.console import Console

    from dsa_core.lab.batch.state import RunState

FILE_HELP = "the grid: notebook, parameters (lists are axes), seeds; see notebooks/batches/"
OUT_HELP = "the batch goes to OUT/NAME of the file/; finished runs there are skipped"
WORKERS_HELP = "concurrent runs or, with --slurm, jobs to submit"
SCHEDULER_HELP = "address of a dask scheduler whose workers share this folder (extra `cluster`)"


def batch_command(
    file: Annotated[Path, typer.Argument(help=FILE_HELP)],
    out: Annotated[Path, typer.Option(help=OUT_HELP)] = Path("runs"),
    workers: Annotated[int, typer.Option(min=1, help=WORKERS_HELP)] = 1,
    dry_run: Annotated[bool, typer.Option(help="only print the plan and an estimate")] = False,
    scheduler: Annotated[str | None, typer.Option(help=SCHEDULER_HELP)] = None,
    slurm: Annotated[bool, typer.Option(help="run on SLURM (extra `cluster`)")] = False,
) -> None:
    """Run a notebook over a grid of parameters; exit code 1 if a run failed.

    Each run leaves its executed notebook, parameters and record in OUT/BATCH/RUN/. After a kill,
    the same command resumes the batch.
    """
    from dsa_core.lab.batch import view
    from dsa_core.lab.batch.pools import threads_of
    from dsa_core.lab.batch.run import run_batch, states_of
    from dsa_core.lab.batch.spec import jobs_of, read_spec

    if scheduler and slurm:
        raise ConfigError("give --scheduler or --slurm, not both")
    spec = read_spec(file)
    jobs, folder = jobs_of(spec), out / file.stem
    screen = console()
    if dry_run:
        screen.print(view.plan(spec, states_of(jobs, folder), workers))
        return
    screen.print(view.estimate(spec, states_of(jobs, folder), workers))
    environment = whole_paths() | ({} if scheduler or slurm else threads_of(workers))
    with pool_of(workers, scheduler, slurm) as pool, progress(screen) as tell:
        states = run_batch(jobs, folder, pool, environment=environment, on_tick=tell)
    screen.print(f"{view.summary(states)}; dsa report {folder}")
    if any(s.state != "done" for s in states):
        print(view.failures(states), file=sys.stderr)
        raise typer.Exit(1)


def pool_of(workers: int, scheduler: str | None, slurm: bool) -> "AbstractContextManager[Executor]":
    """The executor of the runs; here each run is a process, for which a thread waits."""
    from concurrent.futures import ThreadPoolExecutor

    from dsa_core.lab.batch import pools

    if scheduler:
        return pools.scheduler_pool(scheduler)
    return pools.slurm_pool(workers) if slurm else ThreadPoolExecutor(workers)


def whole_paths() -> dict[str, str]:
    """DSA_DATA as an absolute path: notebooks run in another working directory."""
    data = os.environ.get("DSA_DATA")
    return {"DSA_DATA": str(Path(data).expanduser().resolve())} if data else {}


@contextmanager
def progress(screen: "Console") -> "Iterator[Callable[[Sequence[RunState]], None]]":
    """Show states: in a live table on a terminal; elsewhere a line whenever one changes."""
    from rich.live import Live

    from dsa_core.lab.batch import view

    if screen.is_terminal:
        with Live(console=screen, auto_refresh=False) as live:
            yield lambda states: live.update(view.live_table(states), refresh=True)
        return
    seen: dict[str, str] = {}

    def tell(states: "Sequence[RunState]") -> None:
        for s in states:
            if seen.get(s.id, "planned") != s.state:
                took = f" {view.duration(s.seconds)}" if s.state == "done" else ""
                print(f"{s.state}{took}: {s.id} {s.error}".rstrip(), flush=True)
            seen[s.id] = s.state

    yield tell
