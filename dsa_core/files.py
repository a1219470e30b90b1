"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

EPOCHS = ".epochs.json"  # suffix of the file beside a checkpoint that holds its progress


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that appears at `path` only when the block ends without an error.

    Written beside `path`, flushed to the disk, then moved over it, which is one atomic step: a
    crash at any moment leaves the old file or the new one. The folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file whole or not at all; what was there before stays if this fails."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
