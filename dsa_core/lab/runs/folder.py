"""The folder of a run: for one process at a time, and what is told when it goes wrong."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from dsa_core.errors import ConfigError, TrainingError, first_problem
from dsa_core.files import write_atomically
from dsa_core.lab.runs.config import RunConfig
from dsa_core.training.processes import agreed, process_group, wait

CONFIG, LOCK = "config.json", ".lock"
FULL = (errno.ENOSPC, errno.EDQUOT)  # no space left on the disk, or in the user's quota


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder of a run; the system gives it free when the process ends, however it ends.

    Of several processes that train together the main one holds it for all.

    Raises:
        ConfigError: another run is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    if not agreed(not process_group().is_main or taken(lock)):
        raise ConfigError(
            f"another process is at work in {folder}: wait until it ends or stop it, and give the "
            "same command again; or give this run another folder (--out)"
        )
    try:
        yield
        wait()
    finally:
        lock.release()


def taken(lock: FileLock) -> bool:
    """Take a lock, if it is free."""
    try:
        lock.acquire()
    except Timeout:
        return False
    return True


@contextmanager
def one_run_at_a_time(folder: Path) -> Iterator[None]:
    """Let the runs that share a folder take turns; of several processes the first holds the key."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / LOCK) if process_group().is_main else nullcontext():
        wait()
        yield
        wait()


def check_folder(out: Path) -> None:
    """Refuse a place for folders that is a file, or below one.

    Raises:
        ConfigError: it is.
    """
    for path in (out, *out.parents):
        if path.is_dir():
            return
        if path.exists() or path.is_symlink():
            raise ConfigError(f"out: {path} is not a folder: give --out a folder, or a new name")


def write_config(folder: Path, config: RunConfig) -> None:
    """Write down what the run does."""
    write_atomically(folder / CONFIG, config.model_dump_json(indent=1) + "\n")


def check_config(folder: Path, config: RunConfig) -> None:
    """Compare the configuration that an earlier call has left, if there is one.

    Raises:
        ConfigError: it is another one, or was edited: nothing is read from there.
    """
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
    "The file only notes what a run does; settings are given to `dsa run` (--set). Remove the file "
    "to go on with what was asked, take another folder, or start over with --force"
)


def check_still_there(folder: Path) -> None:
    """Refuse to end a run whose folder was removed meanwhile: what it holds now is half a run.

    Raises:
        TrainingError: the configuration is gone.
    """
    if not (folder / CONFIG).exists():
        raise TrainingError(
            f"{folder} was removed or emptied while the run was going, and holds only a part of "
            "it now: remove it, and give the same command again"
        )


@contextmanager
def disk_may_be_full(folder: Path) -> Iterator[None]:
    """Say where, and how to go on, when nothing more can be written.

    Raises:
        TrainingError: instead of the system's error.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise TrainingError(
            f"{folder}: {error.strerror}: {shutil.disk_usage(folder).free:,} bytes are free. What "
            "was written before is whole: make room, and give the same command again to go on"
        ) from error
