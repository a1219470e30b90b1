"""The state of a run, as a file in its folder; a batch keeps no other state."""

import json
import time
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

from dsa_core.files import EPOCHS, write_atomically
from dsa_core.lab.batch.spec import Job

FILE = "run.json"
LOG = "batch.log"
RECORD = "record.json"
CONFIG, CHECKPOINTS = "config.json", "checkpoints"  # of a run of this library
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
        epochs_done, epochs: of the search and the fine-tuning of a run that goes on; 0 of 0 where
            its folder does not say. Of a search in trials, whose number nobody knows, `epochs` is
            0 until the fine-tuning.
        epoch_seconds: of those that are done, in the mean.
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
    epochs_done: int = 0
    epochs: int = 0
    epoch_seconds: float = 0.0


def read_state(folder: Path, job: Job) -> RunState:
    """The state in the folder of a run; planned if missing or of other parameters."""
    blank = RunState(id=job.id, config_hash=job.config_hash)
    try:
        found = RunState.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError):  # a damaged file proves nothing
        return blank
    if found.config_hash != job.config_hash:
        return blank
    lost = found.state == "done" and found.record and not (folder / RECORD).is_file()
    if found.state == "running":
        return found.model_copy(update=epochs_in(folder))
    return blank if lost else found


def epochs_in(folder: Path) -> dict[str, float]:
    """How far the trainings of a run are, from its settings and the files beside its checkpoints.

    Nothing of a run that trains otherwise, or whose files cannot be read.
    """
    try:
        preset = json.loads((folder / CONFIG).read_text())["preset"]
        epochs = preset["search"]["train"]["epochs"] + preset["fine_tune"]["epochs"]
        files = (folder / CHECKPOINTS).glob(f"*{EPOCHS}")
        saved = {file.name: json.loads(file.read_text()) for file in files}
        done, seconds = (sum(each[key] for each in saved.values()) for key in ("done", "seconds"))
        if tuned := saved.get(f"fine_tune{EPOCHS}"):
            epochs = done + tuned["epochs"] - tuned["done"]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    if not tuned and any(name.startswith("search-trial") for name in saved):
        return {"epochs_done": done}
    each = seconds / done if done else 0.0
    return {"epochs_done": done, "epochs": epochs, "epoch_seconds": each}


def write_state(folder: Path, state: RunState) -> None:
    """Write the state atomically."""
    write_atomically(folder / FILE, state.model_dump_json(indent=1) + "\n")


def log(batch: Path, state: RunState) -> None:
    """Append one line about one run."""
    when = time.strftime("%Y-%m-%dT%H:%M:%S")
    line = f"{when}  {state.state:11}  {state.seconds:8.1f} s  {state.id}  {state.error}".rstrip()
    with (batch / LOG).open("a") as file:
        file.write(line + "\n")
