"""The state of a run, as a file in its folder; a batch keeps no other state."""

import time
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

from dsa_core.files import write_atomically
from dsa_core.lab.batch.spec import Job

FILE = "run.json"
LOG = "batch.log"
RECORD = "record.json"
State: TypeAlias = Literal["planned", "running", "interrupted", "done", "failed", "timeout"]


class RunState(BaseModel):
    """The state of a run.

    Attributes:
        id, config_hash: of its job.
        state: "running" in a batch that has ended means interrupted.
        seconds: of the last attempt.
        started: Unix time.
        record: whether the run left a record, which must then exist for the run to count as done.
        cell: index of the failed cell in the executed notebook, from 0.
        error: what went wrong, in one line.
        traceback: of the cell.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    config_hash: str
    state: State = "planned"
    seconds: float = 0.0
    started: float = 0.0
    record: bool = False
    cell: int | None = None
    error: str = ""
    traceback: str = ""


def read_state(folder: Path, job: Job) -> RunState:
    """The state in the folder of a run; planned if missing or of other parameters."""
    blank = RunState(id=job.id, config_hash=job.config_hash)
    try:
        found = RunState.model_validate_json((folder / FILE).read_text())
    except (OSError, ValidationError):  # a damaged file proves nothing
        return blank
    if found.config_hash != job.config_hash:
        return blank
    lost = found.state == "done" and found.record and not (folder / RECORD).is_file()
    return blank if lost else found


def write_state(folder: Path, state: RunState) -> None:
    """Write the state atomically."""
    write_atomically(folder / FILE, state.model_dump_json(indent=1) + "\n")


def log(batch: Path, state: RunState) -> None:
    """Append one line about one run."""
    when = time.strftime("%Y-%m-%dT%H:%M:%S")
    line = f"{when}  {state.state:11}  {state.seconds:8.1f} s  {state.id}  {state.error}".rstrip()
    with (batch / LOG).open("a") as file:
        file.write(line + "\n")
