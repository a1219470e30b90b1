"""One run in its own process: `python -m dsa_core.lab.batch.worker FOLDER`.

The folder holds parameters.json (a `Job`); the executed notebook and run.json are written there.
"""

import os
import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from filelock import FileLock

from dsa_core.lab.batch.spec import OUT, Job
from dsa_core.lab.batch.state import RECORD, RunState, read_state, write_state

if TYPE_CHECKING:
    from papermill.exceptions import PapermillExecutionError

PARAMETERS = "parameters.json"
KERNEL = "python3"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # escape codes in IPython's tracebacks
ORPHANED = 70  # exit code of a worker whose batch has ended
NO_START = ("Kernel died before replying", "Kernel didn't respond")  # jupyter_client's words


def work(folder: Path) -> RunState:
    """Run the job of a folder, unless it is done; any error becomes its state.

    A lock keeps two workers (of two batches, or of a restarted one) out of the same folder.
    """
    job = Job.model_validate_json((folder / PARAMETERS).read_text())
    with FileLock(folder / ".batch.lock"):
        state = read_state(folder, job)
        if state.state == "done":
            return state
        begun = time.time()
        state = RunState(id=job.id, config_hash=job.config_hash, state="running", started=begun)
        write_state(folder, state)
        outcome = attempt(job, folder)
        record = (folder / RECORD).is_file()
        changes = outcome | {"seconds": time.time() - begun, "record": record}
        state = state.model_copy(update=changes)
        write_state(folder, state)
    return state


def attempt(job: Job, folder: Path) -> dict[str, Any]:
    """Execute the notebook; return the changes of the run's state."""
    from nbclient.exceptions import CellTimeoutError
    from papermill.exceptions import PapermillExecutionError

    try:
        twice_if_no_kernel(lambda: execute(job, folder))
    except PapermillExecutionError as error:
        return failure(error)
    except CellTimeoutError:
        limit = job.cell_timeout_s / 60
        return {"state": "timeout", "error": f"a cell took longer than {limit:g} minutes"}
    except Exception as error:
        return {"state": "failed", "error": f"{type(error).__name__}: {first_line(str(error))}"}
    return {"state": "done"}


def failure(error: "PapermillExecutionError") -> dict[str, Any]:
    """Which cell of the saved notebook failed, and how."""
    cell = error.cell_index + 2  # papermill puts a banner at the top, an anchor before the cell
    text = f"cell {cell}, In [{error.exec_count}]: {error.ename}: {first_line(error.evalue)}"
    traceback = COLOUR.sub("", "\n".join(error.traceback))
    return {"state": "failed", "cell": cell, "error": text, "traceback": traceback}


def execute(job: Job, folder: Path) -> None:
    """Run the notebook by papermill in its own folder; the executed copy goes to `folder`."""
    from papermill import execute_notebook

    out = {OUT: str(folder.resolve())} if job.takes_out else {}
    execute_notebook(
        braces_kept(job.notebook),
        braces_kept(folder.resolve() / job.notebook.name),
        parameters=job.parameters | out,
        kernel_name=KERNEL,
        language="python",  # a notebook may not state it
        cwd=str(job.notebook.parent),
        progress_bar=False,
        execution_timeout=max(1, round(job.cell_timeout_s)),
    )


def braces_kept(path: Path) -> str:
    """Escape braces in a path, which papermill would replace by parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


def twice_if_no_kernel(start: Callable[[], None]) -> None:
    """Retry once if the kernel did not start: concurrent kernels can clash over a port."""
    try:
        start()
    except RuntimeError as error:
        if not str(error).startswith(NO_START):
            raise
        start()


def first_line(text: str) -> str:
    """The first line of a message."""
    lines = text.strip().splitlines()
    return lines[0] if lines else ""


def end_with_the_batch() -> None:
    """Wait until the pipe from the batch closes, then end this process and its kernel."""
    while os.read(0, 1):
        pass
    kill_tree(psutil.Process(), itself=False)
    os._exit(ORPHANED)


def kill_tree(process: psutil.Process, *, itself: bool) -> None:
    """Kill the descendants of a process, and optionally the process itself first."""
    try:
        doomed = [process] * itself + process.children(recursive=True)
    except psutil.NoSuchProcess:
        return
    for one in doomed:
        with suppress(psutil.NoSuchProcess):
            one.kill()


def main() -> None:
    """Run the folder named on the command line."""
    threading.Thread(target=end_with_the_batch, daemon=True).start()
    work(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
