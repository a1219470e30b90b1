"""Datasets by name, held in memory as one uint8 tensor for each part."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from dsa_core.errors import ConfigError, nearest
from dsa_core.lab.data.batches import Batches, check_part
from dsa_core.lab.data.files import read_cifar, read_fashion_mnist
from dsa_core.lab.data.folder import FolderDataset, open_folder
from dsa_core.lab.data.images import SKIP
from dsa_core.lab.data.maps import MapBatches
from dsa_core.lab.data.scenes import compose
from dsa_core.lab.data.segment_task import segmentation
from dsa_core.lab.data.upscale import SCALE, UpscaleDataset, photographs, read_folders
from dsa_core.lab.data.upscale_task import super_resolution
from dsa_core.lab.data.voc import count_classes, mean_and_std, read_voc
from dsa_core.training.task import Task, classification

DIGITS_TEST_FRACTION = 0.2
DIGITS_SPLIT_SEED = 0


@dataclass(frozen=True)
class Dataset:
    """Images with labels, and how they are normalised and augmented.

    Attributes:
        name: of the dataset.
        num_classes: labels are in 0 .. num_classes - 1.
        train_images: uint8, shape (N, C, H, W).
        train_labels: int64, shape (N,).
        test_images: uint8, shape (M, C, H, W).
        test_labels: int64, shape (M,).
        mean: of each channel over the training images, of pixel / 255.
        std: standard deviation of each channel, in the same unit.
        augment: the augmentation its training batches get by default.
        task: loss and score; with maps as labels, uint8 of shape (N, H, W), `segmentation`.
        kind: of the batches.
    """

    name: str
    num_classes: int
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str
    task: Task = field(default_factory=classification)
    kind: type[Batches] = Batches

    def count(self, part: str) -> int:
        """Count the examples of "train" or "test"."""
        return len(self.train_labels if check_part(part) == "train" else self.test_labels)

    def batches(
        self,
        part: str,
        *,
        batch_size: int,
        indices: Tensor | None = None,
        augment: str | None = None,
        seed: int = 0,
        shuffle: bool | None = None,
        drop_last: bool = False,
        device: torch.device | str = "cpu",
    ) -> Batches:
        """Make batches of one part, or of some of its examples.

        Args:
            part: "train" or "test".
            batch_size: examples in a batch.
            indices: only these examples, such as one half of `split`; None = all.
            augment: None = the dataset's own for "train", "none" for "test".
            seed: of order and augmentation.
            shuffle: None = shuffle "train" only.
            drop_last: leave a smaller last batch out.
            device: where batches are made and live.

        Raises:
            ConfigError: the part or the augmentation is unknown.
        """
        training = check_part(part) == "train"
        images = self.train_images if training else self.test_images
        labels = self.train_labels if training else self.test_labels
        if indices is not None:
            images, labels = images[indices], labels[indices]
        default = self.augment if training else "none"
        return self.kind(
            images,
            labels,
            batch_size=batch_size,
            mean=self.mean,
            std=self.std,
            augment=default if augment is None else augment,
            seed=seed,
            shuffle=training if shuffle is None else shuffle,
            drop_last=drop_last,
            device=device,
        )


AnyDataset = Dataset | FolderDataset | UpscaleDataset


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
        found = OPENERS[kind](where.removesuffix(SKIP), data_root(root), skip=where.endswith(SKIP))
        found = replace(found, name=name)
        return replace(found, workers=workers) if isinstance(found, FolderDataset) else found
    if name not in LOADERS:
        raise ConfigError(f"unknown dataset {name!r}{nearest(name, (*LOADERS, *PATHS))}")
    return LOADERS[name](data_root(root), download)


def _digit_parts() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The digits; test is a fifth of each class, drawn once with a fixed seed."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw = load_digits()
    # 0 .. 16 shades become 0 .. 255; no two shades fall together
    images = torch.from_numpy(raw.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(raw.target).long()
    train, test = train_test_split(
        torch.arange(len(labels)).numpy(),
        test_size=DIGITS_TEST_FRACTION,
        stratify=raw.target,
        random_state=DIGITS_SPLIT_SEED,
    )
    return images[train], labels[train], images[test], labels[test]


def _digits(root: Path, download: bool) -> Dataset:
    return Dataset("digits", 10, *_digit_parts(), mean=(0.305,), std=(0.377,), augment="shift")


def _digit_scenes(root: Path, download: bool) -> Dataset:
    """Compose scenes; those of the test from digits that no training scene has."""
    train_digits, train_labels, test_digits, test_labels = _digit_parts()
    train = compose("train", train_digits, train_labels)
    return _maps("digit_scenes", (*train, *compose("test", test_digits, test_labels)), "shift")


def _voc(where: str, root: Path, *, skip: bool) -> Dataset:
    return _maps(where, read_voc(where, root, skip=skip), "zoom_crop_flip")


def _maps(name: str, parts: tuple[Tensor, Tensor, Tensor, Tensor], augment: str) -> Dataset:
    """A dataset of label maps: classes and normalisation are counted."""
    classes = count_classes([parts[1], parts[3]])
    mean, std = mean_and_std(parts[0])
    return Dataset(
        name, classes, *parts,
        mean=mean, std=std, augment=augment, task=segmentation(classes), kind=MapBatches,
    )  # fmt: skip


def _photo_patches(root: Path, download: bool) -> UpscaleDataset:
    return UpscaleDataset("photo_patches", super_resolution(SCALE), *photographs())


def _sr(where: str, root: Path, *, skip: bool) -> UpscaleDataset:
    return UpscaleDataset(where, super_resolution(SCALE), *read_folders(where, root, skip=skip))


def _folder(where: str, root: Path, *, skip: bool) -> FolderDataset:
    return open_folder(where, skip=skip)


def _cifar10(root: Path, download: bool) -> Dataset:
    parts = read_cifar(root, classes=10, download=download)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    return Dataset("cifar10", 10, *parts, mean=mean, std=std, augment="crop_flip")


def _cifar100(root: Path, download: bool) -> Dataset:
    parts = read_cifar(root, classes=100, download=download)
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    return Dataset("cifar100", 100, *parts, mean=mean, std=std, augment="crop_flip")


def _fashion_mnist(root: Path, download: bool) -> Dataset:
    parts = read_fashion_mnist(root, download=download)
    return Dataset("fashion_mnist", 10, *parts, mean=(0.2860,), std=(0.3530,), augment="crop_flip")


LOADERS: dict[str, Callable[[Path, bool], Dataset | UpscaleDataset]] = {
    "digits": _digits,
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "fashion_mnist": _fashion_mnist,
    "digit_scenes": _digit_scenes,
    "photo_patches": _photo_patches,
}
OPENERS: dict[str, Callable[..., AnyDataset]] = {
    "folder": _folder,
    "voc": _voc,
    "sr": _sr,
}
PATHS = ("folder:PATH", "voc:PATH", "sr:TRAIN,TEST")  # how names with a path are written
