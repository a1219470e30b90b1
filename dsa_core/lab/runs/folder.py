"""The folder of a run: one process at a time, with clear errors when something goes wrong."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from dsa_core.errors import ConfigError, TrainingError, first_problem
from dsa_core.lab.runs.config import RunConfig
from dsa_core.training.processes import agreed, process_group, wait

CONFIG, LOCK = "config.json", ".lock"
FULL = (errno.ENOSPC, errno.EDQUOT)  # disk full, or quota exceeded


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lock the folder of a run or a batch; the system releases the lock whenever the process ends.

    If several processes train together, the main one holds the lock for all.

    Raises:
        ConfigError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    if not agreed(not process_group().is_main or taken(lock)):
        raise ConfigError(
            f"another process is working in {folder}: wait until it ends or stop it, and give the "
            "same command again; or use another folder (--out)"
        )
    try:
        yield
        wait()
    finally:
        lock.release()


def taken(lock: FileLock) -> bool:
    """Try to take a lock; return whether it was free."""
    try:
        lock.acquire()
    except Timeout:
        return False
    return True


@contextmanager
def one_run_at_a_time(folder: Path) -> Iterator[None]:
    """Let runs that share a folder take turns; the main process holds the lock for its group."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / LOCK) if process_group().is_main else nullcontext():
        wait()
        yield
        wait()


def check_folder(out: Path) -> None:
    """Raise ConfigError if an output path is a file, or below one."""
    for path in (out, *out.parents):
        if path.is_dir():
            return
        if path.exists() or path.is_symlink():
            raise ConfigError(f"out: {path} is not a folder: give --out a folder, or a new name")


def check_config(folder: Path, config: RunConfig) -> None:
    """Raise ConfigError if a configuration left by an earlier call differs, or was edited."""
    path = folder / CONFIG
    if not path.exists():
        return
    try:
        found = RunConfig.model_validate_json(path.read_text())
    except (ValidationError, UnicodeDecodeError) as error:
        why = first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise ConfigError(f"{path} was damaged or edited ({why}). {REMEDY}") from None
    if found != config:
        names = [n for n in RunConfig.model_fields if getattr(found, n) != getattr(config, n)]
        raise ConfigError(
            f"{path} is of another configuration, or was edited: its {', '.join(names)} "
            f"{'differs' if len(names) == 1 else 'differ'} from what was asked. {REMEDY}"
        )


REMEDY = (
    "The file only documents a run; settings are passed to `dsa run` (--set). Remove the file to "
    "continue with the settings passed, use another folder, or start over with --force"
)


def check_still_there(folder: Path) -> None:
    """Raise TrainingError if the folder of a run was removed meanwhile."""
    if not (folder / CONFIG).exists():
        raise TrainingError(
            f"{folder} was removed or emptied during the run and holds only a part of it: remove "
            "it, and give the same command again"
        )


@contextmanager
def disk_may_be_full(folder: Path) -> Iterator[None]:
    """Turn a full disk into a TrainingError that names the folder and says how to resume."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise TrainingError(
            f"{folder}: {error.strerror}: {shutil.disk_usage(folder).free:,} bytes are free. Files "
            "written before are intact: make room, and give the same command again to resume"
        ) from error
