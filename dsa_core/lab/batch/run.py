"""Run all jobs of a batch."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import suppress
from pathlib import Path

import psutil

from dsa_core.files import write_atomically
from dsa_core.lab.batch.spec import Job
from dsa_core.lab.batch.state import RunState, State, log, read_state, write_state
from dsa_core.lab.batch.worker import PARAMETERS, kill_tree
from dsa_core.lab.runs.folder import alone_in

TICK_S = 1.0  # between two reads of the folders
WORKER = "dsa_core.lab.batch.worker"
OUTPUT = "output.txt"  # stdout and stderr of a worker
States = list[RunState]


def run_batch(
    jobs: Sequence[Job],
    batch: Path,
    pool: Executor,
    *,
    environment: dict[str, str] | None = None,
    on_tick: Callable[[States], None] | None = None,
) -> States:
    """Run all jobs that are not done; a failing run does not affect the others.

    Each run is a process that ends when this one does, by any signal. All state is in files, so the
    same call resumes after a crash: finished runs are skipped, and the interrupted one starts again
    and finds the checkpoints left by its notebook.

    Args:
        jobs: whose states are returned, in order.
        batch: folder of the batch; run `id` has the folder `batch/id`.
        pool: executor of the runs: threads, or a cluster that shares this folder.
        environment: variables of the runs, in addition to those of the starting process.
        on_tick: called about every second with the state of every job, in order.

    Raises:
        ConfigError: another process is running this batch.
        KeyboardInterrupt: after Ctrl-C; local runs are stopped.
    """
    with alone_in(batch):
        todo = [job for job in jobs if read_state(batch / job.id, job).state != "done"]
        futures = {
            pool.submit(run_job, job, batch / job.id, environment or {}): job for job in todo
        }
        try:
            follow(futures, jobs, batch, on_tick or (lambda states: None))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            kill_workers()
            raise
    return states_of(jobs, batch)


def follow(
    futures: dict[Future[RunState], Job],
    jobs: Sequence[Job],
    batch: Path,
    on_tick: Callable[[States], None],
) -> None:
    """Wait for all runs; log each as it ends."""
    pending = set(futures)
    while pending:
        on_tick(states_of(jobs, batch))
        over, pending = wait(pending, timeout=TICK_S)
        for future in over:
            job, error = futures[future], future.exception()
            if error is None:
                log(batch, future.result())
            else:  # its process could not be started
                told = f"{type(error).__name__}: {error}"
                folder = batch / job.id
                log(batch, ended(job, folder, time.time(), state="failed", error=told))
    on_tick(states_of(jobs, batch))


def states_of(jobs: Sequence[Job], batch: Path) -> States:
    """The states recorded in the folders."""
    return [read_state(batch / job.id, job) for job in jobs]


def run_job(job: Job, folder: Path, environment: dict[str, str]) -> RunState:
    """Run one job in its own process, with a time limit; "interrupted" if that was killed."""
    folder = folder.resolve()
    write_atomically(folder / PARAMETERS, job.model_dump_json(indent=1) + "\n")
    command = [sys.executable, "-m", WORKER, str(folder)]
    begun = time.time()
    with (folder / OUTPUT).open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # closes when we end: the worker then ends too
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
        )
        try:
            process.wait(job.timeout_s)
        except subprocess.TimeoutExpired:
            kill_tree(psutil.Process(process.pid), itself=True)
            error = f"the run took longer than {job.timeout_s / 60:g} minutes"
            return ended(job, folder, begun, state="timeout", error=error)
    state = read_state(folder, job)
    if state.state in ("done", "failed", "timeout"):
        return state
    error = f"its process ended with {process.returncode}, see {folder / OUTPUT}"
    return ended(job, folder, begun, state="interrupted", error=error)


def ended(job: Job, folder: Path, begun: float, *, state: State, error: str) -> RunState:
    """Record the end of a run that could not do so itself."""
    found = RunState(id=job.id, config_hash=job.config_hash, state=state, started=begun)
    found = found.model_copy(update={"seconds": time.time() - begun, "error": error})
    write_state(folder, found)
    return found


def kill_workers() -> None:
    """End the runs started by this process."""
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if WORKER in child.cmdline():
                kill_tree(child, itself=True)
