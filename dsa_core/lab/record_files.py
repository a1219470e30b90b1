"""Records on disk: `record.json` in the folder of a run, or lines of a `.jsonl` file."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from dsa_core.errors import ConfigError, first_problem
from dsa_core.files import write_atomically
from dsa_core.lab.record import Record

FILE, LINES = "record.json", ".jsonl"


def write_record(folder: Path, record: Record) -> Path:
    """Write `record.json` atomically."""
    path = folder / FILE
    write_atomically(path, record.model_dump_json(indent=1) + "\n")
    return path


def write_lines(path: Path, records: Iterable[Record]) -> None:
    """Write one line per record, atomically."""
    write_atomically(path, "".join(f"{each.model_dump_json()}\n" for each in records))


def read_record(path: Path) -> Record:
    """Read the record of one run.

    Raises:
        ConfigError: the file is not a record; names the first wrong entry.
    """
    found = next(records_in(path))
    if isinstance(found, ConfigError):
        raise found
    return found


def find_records(*roots: Path, strict: bool = False) -> list[Record]:
    """Read all records of some files and folders, in the order of their paths.

    A configuration counts once on each device, by its first record; in a folder runs come before
    files.

    Args:
        roots: `.jsonl` files, or folders with such files or with runs somewhere below them.
        strict: raise the first error. Otherwise damaged records and other content are reported on
            stderr, with the line, and skipped.

    Raises:
        ConfigError: a root is missing.
    """
    found: dict[tuple[str, str], Record] = {}
    for each in (each for root in roots for path in files_of(root) for each in records_in(path)):
        if isinstance(each, Record):
            found.setdefault((each.config_hash, each.device), each)
        elif strict:
            raise each
        else:
            print(f"left out: {each}", file=sys.stderr)
    return list(found.values())


def files_of(root: Path) -> list[Path]:
    """The file itself, or all files of records below a folder.

    Raises:
        ConfigError: it does not exist.
    """
    if not root.exists():
        raise ConfigError(
            f"{root} does not exist: give the folder that `dsa run --out` wrote to, or a file of "
            f"records ({LINES})"
        )
    if not root.is_dir():
        return [root]
    return [*sorted(root.rglob(FILE)), *sorted(root.rglob(f"*{LINES}"))]


def records_in(path: Path) -> Iterator[Record | ConfigError]:
    """The records of a file; in place of a damaged one, its error."""
    try:
        content = path.read_bytes()
    except OSError as error:
        yield ConfigError(f"{path}: cannot be read: {error.strerror or error}")
        return
    several = path.suffix == LINES
    for number, text in enumerate(content.splitlines() if several else [content], start=1):
        try:
            yield Record.model_validate_json(text)
        except ValidationError as error:
            place = f"{path}, line {number}" if several else str(path)
            yield ConfigError(f"{place}: {first_problem(error)}")


def pack(folder: Path, into: Path) -> int:
    """Add the records of all runs below a folder to a file, replacing runs already in it.

    Returns:
        Number of records in the file.

    Raises:
        ConfigError: there is no run, or a file is damaged; nothing is written.
    """
    runs = [read_record(path) for path in sorted(folder.rglob(FILE))]
    if not runs:
        raise ConfigError(f"no {FILE} below {folder}: give a folder written by `dsa run`")
    before = find_records(into, strict=True) if into.exists() else []
    new = {r.config_hash for r in runs}
    kept = [r for r in before if r.config_hash not in new]
    records = {(r.config_hash, r.device): r for r in (*kept, *runs)}
    write_lines(into, records.values())
    return len(records)
