"""Images and their smaller selves: batches of patches to train on, whole images to test on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dsa_core.errors import ConfigError, DataError
from dsa_core.lab.data.augment import augment_batch
from dsa_core.lab.data.batches import AnyDataset, Batches, Device, Order, check_part, checksum
from dsa_core.lab.data.images import SUFFIXES, read_all, read_image
from dsa_core.lab.data.upscale_task import super_resolution
from dsa_core.training.batches import Batch, BatchSource
from dsa_core.training.task import Task

SCALE = 2
COLOURS = 3
MEAN, STD = (0.0,) * COLOURS, (1.0,) * COLOURS  # colours stay in [0, 1]
PHOTO_PATCH, FOLDER_PATCH = 32, 48  # sides of a training patch, in pixels of the large image
LEAST_SIDE = 16  # of a test image
PHOTO_TEST = 256, 384  # columns of each photograph: its middle, where it is sharp


def shrunk(images: Tensor, scale: int) -> Tensor:
    """Make images smaller: bicubic with antialiasing, rounded to 8 bits.

    Args:
        images: uint8, shape (N, 3, H, W), H and W multiples of `scale`.
        scale: how much smaller, on each side.

    Returns:
        uint8, shape (N, 3, H / scale, W / scale).
    """
    size = [n // scale for n in images.shape[-2:]]
    small = interpolate(
        images.float(), size=size, mode="bicubic", antialias=True, align_corners=False
    )
    return small.round().clamp(0, 255).to(torch.uint8)


class UpscaleBatches(Batches):
    """Batches of (small, large) patches: the target is the patch itself, in [0, 1]."""

    def pair(self, images: Tensor, labels: Tensor, draw: torch.Generator) -> Batch:
        """Augment the large patches, then make them smaller."""
        large = augment_batch(images, self.how, draw)
        return shrunk(large, SCALE), large.float() / 255


class WholeImages(BatchSource):
    """Images one by one, because they differ in size; never shuffled."""

    def __init__(self, images: Sequence[Tensor], device: Device) -> None:
        super().__init__(len(images), batch_size=1, seed=0, shuffle=False, drop_last=False)
        self._images = images
        self._device = device

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield (small, large), each of one image, in [0, 1]."""
        for image in self._images[start:]:
            large = image.unsqueeze(0).to(self._device)
            yield shrunk(large, SCALE).float() / 255, large.float() / 255

    def fingerprint(self) -> dict[str, str]:
        """Describe what decides the numbers."""
        return self._settings() | {"images": " ".join(checksum(p) for p in self._images)}


@dataclass(frozen=True)
class UpscaleDataset(AnyDataset):
    """Patches to train on and whole images to test on; the network's input is half their size.

    Attributes:
        patches: uint8, shape (N, 3, S, S), large ones.
        images: of the test, uint8, each (3, H, W), H and W even.
    """

    patches: Tensor
    images: tuple[Tensor, ...]
    augment: str = field(default="flip_turn", kw_only=True)
    task: Task = field(default_factory=partial(super_resolution, SCALE), kw_only=True)

    def count(self, part: str) -> int:
        """Count the patches of "train", or the images of "test"."""
        return len(self.patches if check_part(part) == "train" else self.images)

    def make(
        self, part: str, indices: Tensor | None, augment: str, device: Device, order: Order
    ) -> BatchSource:
        """Make batches of patches, or give the images of the test one by one."""
        if part == "test":
            chosen = range(len(self.images)) if indices is None else indices.tolist()
            return WholeImages([self.images[i] for i in chosen], device)
        patches = self.patches if indices is None else self.patches[indices]
        return UpscaleBatches(
            patches, patches, mean=MEAN, std=STD, augment=augment, device=device, **order
        )


def cut(image: Tensor, side: int) -> Tensor:
    """Cut an image (3, H, W) into patches side by side, (N, 3, side, side); the rest is left."""
    tiles = image.unfold(1, side, side).unfold(2, side, side)  # (3, rows, columns, side, side)
    return tiles.permute(1, 2, 0, 3, 4).reshape(-1, COLOURS, side, side)


def even(image: Tensor) -> Tensor:
    """Leave out a last row or column, so that half the size is a whole number."""
    height, width = (SCALE * (n // SCALE) for n in image.shape[-2:])
    return image[:, :height, :width]


def photographs() -> tuple[Tensor, tuple[Tensor, ...]]:
    """Patches and test strips of scikit-learn's two photographs, 427 by 640 pixels.

    A strip in the middle of each is the test, evaluated as one image; patches come from both
    sides of it, so that no pixel is in both.
    """
    from sklearn.datasets import load_sample_images

    photos = [torch.tensor(p).permute(2, 0, 1) for p in load_sample_images().images]
    left, right = PHOTO_TEST
    sides = [side for p in photos for side in (p[:, :, :left], p[:, :, right:])]
    patches = torch.cat([cut(side, PHOTO_PATCH) for side in sides])
    return patches, tuple(even(p[:, :, left:right]).contiguous() for p in photos)


def read_folders(
    where: str, root: Path, *, skip: bool = False
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Read `TRAINFOLDER,TESTFOLDER`: patches of the one, whole images of the other.

    Args:
        where: two folders of images; relative ones lie below `root`.
        root: folder of the data.
        skip: leave out images that cannot be read.

    Raises:
        ConfigError: there are not two folders.
        DataError: a folder is missing or has no images, or some are too small.
    """
    folders = where.split(",")
    if len(folders) != 2 or not all(folders):
        raise ConfigError(f"wanted is sr:TRAINFOLDER,TESTFOLDER, got 'sr:{where}'")
    train, test = (read_images(root / Path(f).expanduser(), skip=skip) for f in folders)
    small = min((tuple(p.shape[1:]) for p in test), key=min)
    if min(small) < LEAST_SIDE:
        raise DataError(
            f"{folders[1]} has an image of {small[0]}x{small[1]} pixels: wanted are {LEAST_SIDE} "
            "or more on each side, for the test's SSIM"
        )
    patches = torch.cat([cut(p, FOLDER_PATCH) for p in train if min(p.shape[1:]) >= FOLDER_PATCH])
    return patches, tuple(even(p) for p in test)


def read_images(folder: Path, *, skip: bool = False) -> list[Tensor]:
    """Read all images of a folder in the order of their names, uint8, (3, H, W) each.

    Raises:
        DataError: the folder is missing, holds no image of at least 48x48 pixels, or one is
            damaged.
    """
    found = folder.iterdir() if folder.is_dir() else iter(())
    paths = sorted(p for p in found if p.suffix.lower() in SUFFIXES)
    images = read_all(paths, lambda p: np.array(read_image(p)), skip=skip)
    tensors = [torch.from_numpy(p).permute(2, 0, 1).contiguous() for p in images]
    if not any(min(p.shape[1:]) >= FOLDER_PATCH for p in tensors):
        raise DataError(
            f"{folder} holds no image of at least {FOLDER_PATCH}x{FOLDER_PATCH} pixels: wanted "
            f"are files such as {folder}/name.png"
        )
    return tensors
