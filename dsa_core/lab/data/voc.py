"""Images and label maps in the layout of Pascal VOC 2012, held in memory."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsa_core.errors import ConfigError, DataError
from dsa_core.lab.data.files import Parts
from dsa_core.lab.data.images import read_all, read_image
from dsa_core.lab.data.segment_task import VOID

YEAR = "2012"


def read_voc(where: str, root: Path, *, skip: bool = False) -> Parts:
    """Read `PATH` or `PATH@HEIGHTxWIDTH`.

    Training images are those of the list train.txt, test images those of test.txt where there
    is one, else of val.txt. With a size each image is resized until it covers it (colours
    bilinearly with antialiasing, labels by the nearest pixel) and cropped in the middle.

    Args:
        where: PATH holds VOCdevkit/VOC2012; a relative one lies below `root`.
        root: folder of the data.
        skip: leave out pairs that cannot be read.

    Returns:
        Images uint8 (N, 3, H, W), label maps uint8 (N, H, W), of both parts.

    Raises:
        ConfigError: the size cannot be read, or is missing though images differ in size.
        DataError: folder, list or image is missing or damaged.
    """
    path, size = split_size(where)
    folder = root / Path(path).expanduser()
    pairs = [read_part(folder, part, size, skip=skip) for part in ("train", held_out(folder))]
    return (*pairs[0], *pairs[1])


def split_size(where: str) -> tuple[str, tuple[int, int] | None]:
    """Split "PATH@90x120" into the path and (height, width).

    Raises:
        ConfigError: what follows the @ is no size.
    """
    path, at, text = where.rpartition("@")
    if not at:
        return where, None
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        raise ConfigError(f"voc:PATH@HEIGHTxWIDTH wants a size such as @90x120, got {text!r}")
    return path, (int(found[1]), int(found[2]))


def held_out(folder: Path) -> str:
    """The list of the test images: "test" if it is there, else "val"."""
    return "test" if (lists(folder) / "test.txt").is_file() else "val"


def lists(folder: Path) -> Path:
    """The folder of the lists."""
    return folder / "VOCdevkit" / f"VOC{YEAR}" / "ImageSets" / "Segmentation"


def read_part(
    folder: Path, part: str, size: tuple[int, int] | None, *, skip: bool
) -> tuple[Tensor, Tensor]:
    """Read the images and maps of one list."""
    paths = paths_of(folder, part)
    pairs = read_all(paths, lambda pair: read_pair(*pair, size), skip=skip)
    if not pairs:
        raise DataError(f"no image of the list {lists(folder) / part}.txt can be read")
    shapes = {labels.shape for _, labels in pairs}
    if len(shapes) > 1:
        few = ", ".join(f"{h}x{w}" for h, w in sorted(shapes)[:3])
        raise ConfigError(
            f"the images of {folder} differ in size ({few}, ...): name one that all are brought "
            "to, such as voc:PATH@240x320"
        )
    images, maps = (torch.from_numpy(np.stack(found)) for found in zip(*pairs, strict=True))
    return images.permute(0, 3, 1, 2).contiguous(), maps


def paths_of(folder: Path, part: str) -> list[tuple[Path, Path]]:
    """Paths of image and map of each entry of a list.

    Raises:
        DataError: the list is missing or empty.
    """
    try:
        names = (lists(folder) / f"{part}.txt").read_text().split()
    except OSError as error:
        raise DataError(
            f"{folder} is not in the layout of VOC {YEAR} ({error}): wanted are VOCdevkit/VOC{YEAR}"
            "/JPEGImages, SegmentationClass and ImageSets/Segmentation/train.txt and val.txt"
        ) from error
    if not names:
        raise DataError(f"the list {lists(folder) / part}.txt is empty")
    base = lists(folder).parents[1]
    return [
        (base / "JPEGImages" / f"{name}.jpg", base / "SegmentationClass" / f"{name}.png")
        for name in names
    ]


def read_pair(image: Path, labels: Path, size: tuple[int, int] | None) -> tuple[Any, Any]:
    """Read one image, uint8 (H, W, 3), and its map, uint8 (H, W).

    Raises:
        DataError: a file is missing or damaged, or the two differ in size.
    """
    from PIL import Image

    # the map is a palette's indices: the numbers are the classes
    pair = read_image(image), read_image(labels, mode=None)
    if pair[1].mode not in ("P", "L", "1"):
        raise DataError(
            f"{labels} is an image of mode {pair[1].mode}: wanted is one of 8 bits or a palette, "
            "whose numbers are the classes"
        )
    if pair[0].size != pair[1].size:
        raise DataError(f"{image} and {labels} differ in size")
    if size is not None:
        pair = (
            fitted(pair[0], size, Image.Resampling.BILINEAR),
            fitted(pair[1], size, Image.Resampling.NEAREST),
        )
    return np.asarray(pair[0], dtype=np.uint8), np.asarray(pair[1], dtype=np.uint8)


def fitted(image: Any, size: tuple[int, int], how: Any) -> Any:
    """Resize an image of PIL until it covers (height, width), and crop the middle."""
    height, width = size
    factor = max(height / image.height, width / image.width)
    around = round(image.width * factor), round(image.height * factor)
    left, top = (around[0] - width) // 2, (around[1] - height) // 2
    return image.resize(around, how).crop((left, top, left + width, top + height))


def count_classes(maps: Sequence[Tensor]) -> int:
    """One more than the largest label, 255 aside."""
    return 1 + max(int(m.masked_fill(m == VOID, 0).max()) for m in maps)


def mean_and_std(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel of pixel / 255, over uint8 images (N, C, H, W)."""
    values = images.transpose(0, 1).flatten(1)
    counts = torch.stack([torch.bincount(row.int(), minlength=256) for row in values]).double()
    shades = torch.arange(256, dtype=torch.float64) / 255
    share = counts / counts.sum(1, keepdim=True)
    mean = share @ shades
    std = (share @ shades.square() - mean.square()).clamp_min(0).sqrt()
    return tuple(round(float(v), 4) for v in mean), tuple(round(float(v), 4) for v in std)
