"""Datasets by name, held in memory as one uint8 tensor for each part."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dsa_core.errors import ConfigError, DataError, nearest
from dsa_core.lab.data.batches import AnyDataset, Batches, Device, Order, check_part
from dsa_core.lab.data.files import Parts, read_official
from dsa_core.lab.data.folder import FolderDataset, open_folder
from dsa_core.lab.data.images import SKIP
from dsa_core.lab.data.maps import MapBatches
from dsa_core.lab.data.scenes import compose
from dsa_core.lab.data.segment_task import segmentation
from dsa_core.lab.data.upscale import COLOURS, UpscaleDataset, photographs, read_folders
from dsa_core.lab.data.voc import count_classes, mean_and_std, read_voc


@dataclass(frozen=True)
class Dataset(AnyDataset):
    """Images with labels, and how they are normalised.

    Attributes:
        train_images: uint8, shape (N, C, H, W).
        train_labels: int64, shape (N,); maps, uint8 of shape (N, H, W), for `segmentation`.
        test_images: uint8, shape (M, C, H, W).
        test_labels: as those of the training.
        mean: of each channel over the training images, of pixel / 255.
        std: standard deviation of each channel, in the same unit.
        kind: of the batches.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    kind: type[Batches] = Batches

    def count(self, part: str) -> int:
        """Count the examples of "train" or "test"."""
        return len(self.train_labels if check_part(part) == "train" else self.test_labels)

    def make(
        self, part: str, indices: Tensor | None, augment: str, device: Device, order: Order
    ) -> Batches:
        """Make `kind` of batches of one part."""
        training = part == "train"
        images = self.train_images if training else self.test_images
        labels = self.train_labels if training else self.test_labels
        if indices is not None:
            images, labels = images[indices], labels[indices]
        return self.kind(
            images, labels, mean=self.mean, std=self.std, augment=augment, device=device, **order
        )


def names() -> list[str]:
    """List the names that `load` knows, beside those with a path."""
    return list(LOADERS)


def data_root(root: str | Path | None = None) -> Path:
    """Give the folder of the data: `root`, else the environment variable DSA_DATA, else ./data."""
    return Path(root if root is not None else os.environ.get("DSA_DATA") or "data").expanduser()


def load(
    name: str, root: str | Path | None = None, *, download: bool = False, workers: int = 0
) -> AnyDataset:
    """Load a dataset by name; its task comes with it.

    "digits" (scikit-learn's 1797 scans of 8x8 pixels), "digit_scenes" (scenes composed of them,
    with a label for every pixel) and "photo_patches" (of scikit-learn's two photographs, to be
    enlarged) need no file. The others are read from `root` and are downloaded, with torchvision's
    MD5 check, only on request.

    Args:
        name: one of `names()`, or one with a path (for voc and sr, a relative one lies below
            `root`):
            `folder:PATH` for classes of images in ImageNet's layout (PATH/train/CLASS/*,
            PATH/val/CLASS/*);
            `voc:PATH` or `voc:PATH@HEIGHTxWIDTH` for label maps in the layout of VOC 2012, see
            `read_voc`;
            `sr:TRAINFOLDER,TESTFOLDER` for images to be enlarged by 2, see `read_folders`.
            An image that cannot be read is an error that names it; after a name that ends with
            @skip (`folder:PATH@skip`) such images are left out, with a warning and their number.
        root: folder of the data; None = DSA_DATA, else ./data.
        download: fetch what is missing.
        workers: processes that read the images of `folder:PATH`; the others are in memory.

    Raises:
        ConfigError: the name is unknown.
        DataError: files are missing, damaged, or cannot be downloaded; the message says where they
            belong.
    """
    kind, _, where = name.partition(":")
    if where and kind in OPENERS:
        found = OPENERS[kind](
            name, where.removesuffix(SKIP), data_root(root), skip=where.endswith(SKIP)
        )
        return replace(found, workers=workers) if isinstance(found, FolderDataset) else found
    if name not in LOADERS:
        raise ConfigError(f"unknown dataset {name!r}{nearest(name, (*LOADERS, *PATHS))}")
    return LOADERS[name](name, data_root(root), download=download)


def _official(
    kind: str, classes: int, mean: tuple[float, ...], std: tuple[float, ...],
    name: str, root: Path, *, download: bool,
) -> Dataset:  # fmt: skip
    parts = read_official(kind, root, download=download)
    return Dataset(name, classes, *parts, mean=mean, std=std, augment="crop_flip")


def _digit_parts() -> Parts:
    """The digits; test is a fifth of each class, drawn once with a fixed seed."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw = load_digits()
    # 0 .. 16 shades become 0 .. 255; no two shades fall together
    images = torch.from_numpy(raw.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(raw.target).long()
    train, test = train_test_split(
        torch.arange(len(labels)).numpy(), test_size=0.2, stratify=raw.target, random_state=0
    )
    return images[train], labels[train], images[test], labels[test]


def _digits(name: str, root: Path, *, download: bool) -> Dataset:
    return Dataset(name, 10, *_digit_parts(), mean=(0.305,), std=(0.377,), augment="shift")


def _digit_scenes(name: str, root: Path, *, download: bool) -> Dataset:
    """Compose scenes; those of the test from digits that no training scene has."""
    train_digits, train_labels, test_digits, test_labels = _digit_parts()
    train = compose("train", train_digits, train_labels)
    return _maps(name, (*train, *compose("test", test_digits, test_labels)), "shift")


def _photo_patches(name: str, root: Path, *, download: bool) -> UpscaleDataset:
    return UpscaleDataset(name, COLOURS, *photographs())


def _folder(name: str, where: str, root: Path, *, skip: bool) -> FolderDataset:
    return open_folder(name, where, skip=skip)


def _voc(name: str, where: str, root: Path, *, skip: bool) -> Dataset:
    return _maps(name, read_voc(where, root, skip=skip), "zoom_crop_flip")


def _sr(name: str, where: str, root: Path, *, skip: bool) -> UpscaleDataset:
    return UpscaleDataset(name, COLOURS, *read_folders(where, root, skip=skip))


def _maps(name: str, parts: Parts, augment: str) -> Dataset:
    """A dataset of label maps: classes and normalisation are counted."""
    classes = count_classes([parts[1], parts[3]])
    if classes < 2:
        raise DataError(f"{name}: its maps hold one class alone: the numbers must be 0, 1, ...")
    mean, std = mean_and_std(parts[0])
    return Dataset(
        name, classes, *parts,
        mean=mean, std=std, augment=augment, task=segmentation(classes), kind=MapBatches,
    )  # fmt: skip


LOADERS: dict[str, Callable[..., AnyDataset]] = {
    "digits": _digits,
    "cifar10": partial(
        _official, "CIFAR10", 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    ),
    "cifar100": partial(
        _official, "CIFAR100", 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    ),
    "fashion_mnist": partial(_official, "FashionMNIST", 10, (0.2860,), (0.3530,)),
    "digit_scenes": _digit_scenes,
    "photo_patches": _photo_patches,
}
OPENERS: dict[str, Callable[..., AnyDataset]] = {"folder": _folder, "voc": _voc, "sr": _sr}
PATHS = ("folder:PATH", "voc:PATH", "sr:TRAIN,TEST")  # how names with a path are written
