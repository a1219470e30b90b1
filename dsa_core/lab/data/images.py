"""Image files: found, read, and refused by name or left out."""

import os
import warnings
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any, TypeVar

from dsa_core.errors import DataError

SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp",
)  # fmt: skip
SKIP = "@skip"  # at the end of a dataset's name: images that cannot be read are left out
T = TypeVar("T")


def read_image(path: Path, mode: str | None = "RGB") -> Any:
    """Decode one image, as Pillow's.

    Args:
        path: the file.
        mode: what its colours are converted to; None = they stay as they are.

    Raises:
        DataError: it is missing, damaged, no image, or larger than Pillow's limit of pixels.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert(mode) if mode else image.copy()
    except Exception as error:  # a damaged file can raise anything
        raise DataError(
            f"{path} cannot be read as an image: {error}. Repair or remove it, or write {SKIP} "
            "after the dataset's name to leave such files out"
        ) from error


def read_all(paths: Sequence[T], read: Callable[[T], Any], *, skip: bool) -> list[Any]:
    """Read many files; with `skip`, warn of those that cannot be read, and leave them out.

    Raises:
        DataError: one cannot be read, and `skip` is false.
    """
    found, left_out = [], []
    for path in paths:
        try:
            found.append(read(path))
        except DataError as error:
            if not skip:
                raise
            left_out.append(error)
    if left_out:
        warnings.warn(
            f"{len(left_out)} of {len(paths)} images are left out; the first: {left_out[0]}",
            stacklevel=2,
        )
    return found


def images_below(folder: Path, beside: Set[Path]) -> list[Path]:
    """All images in a folder and those below it, in the order of their paths.

    A link to a folder is followed once, and never to one that holds this folder or stands beside it
    as another class (`beside`, resolved): a loop would name the same image again and again.
    """
    above = (*folder.absolute().parents, *folder.resolve().parents)
    seen = {p.resolve() for p in above}.union(beside) - {folder.resolve()}
    found: list[tuple[str, str]] = []
    for place, inner, files in os.walk(folder, followlinks=True):
        real = Path(place).resolve()
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        found += [(place, name) for name in files if name.lower().endswith(SUFFIXES)]
    return [Path(place, name) for place, name in sorted(found)]
