"""Pictures in a folder in ImageNet's layout, read from disk as they are needed."""

from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from dsa_core.errors import ConfigError, DataError
from dsa_core.lab.data.batches import Batch, BatchSource, check_part
from dsa_core.lab.data.pictures import pictures_below, read_all, read_picture
from dsa_core.training.processes import share_list
from dsa_core.training.seeds import step_seed
from dsa_core.training.task import Task, classification

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RESIZE_RATIO = 256 / 224  # shorter side before the centre crop, over the side of the crop


@dataclass(frozen=True)
class FolderDataset:
    """Pictures below PATH/train and PATH/val, one folder a class.

    Training pictures get a random resized crop and a flip, test pictures a centre crop.

    Attributes:
        name: "folder:PATH".
        num_classes: folders below PATH/train.
        path: the folder.
        size: side of the square picture, in pixels.
        mean: of each channel (ImageNet's), of pixel / 255.
        std: standard deviation of each channel, in the same unit.
        augment: the augmentation its training batches get by default.
        left_out: pictures that cannot be read and were to be left out.
        workers: processes that read and decode pictures; 0 = this one does.
        task: classification.
    """

    name: str
    num_classes: int
    path: Path
    size: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    augment: str = "resized_crop_flip"
    left_out: frozenset[Path] = frozenset()
    workers: int = 0
    task: Task = field(default_factory=classification)

    def count(self, part: str) -> int:
        """Count the examples of "train" or "test"."""
        return len(_Pictures(self._part(part), self.left_out, transform=None, indices=None))

    def _part(self, part: str) -> Path:
        return self.path / ("train" if check_part(part) == "train" else "val")

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
    ) -> "FolderBatches":
        """Make batches of one part, as `Dataset.batches` does.

        Raises:
            ConfigError: the part or the augmentation is unknown.
        """
        training = check_part(part) == "train"
        chosen = augment or (self.augment if training else "none")
        pictures = _Pictures(
            self._part(part),
            self.left_out,
            transform=_transform(chosen, self.size, self.mean, self.std),
            indices=indices,
        )
        return FolderBatches(
            pictures,
            batch_size=batch_size,
            seed=seed,
            shuffle=training if shuffle is None else shuffle,
            drop_last=drop_last,
            device=device,
            workers=self.workers,
            description=f"{chosen} {self.size}",
        )


class FolderBatches(BatchSource):
    """Batches read from disk; the same interface and the same promise as `Batches`."""

    def __init__(
        self,
        pictures: "_Pictures",
        *,
        batch_size: int,
        seed: int,
        shuffle: bool,
        drop_last: bool,
        device: torch.device | str,
        workers: int,
        description: str,
    ) -> None:
        super().__init__(
            len(pictures), batch_size=batch_size, seed=seed, shuffle=shuffle, drop_last=drop_last
        )
        self._pictures = pictures
        self._device = device
        self._workers = workers
        self._description = description

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from position `start` on, see `BatchSource.epoch`."""
        return self._read(self._plan(epoch, start))

    def mine(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield this process's rows; it reads no other pictures."""
        return self._read([share_list(batch) for batch in self._plan(epoch, start)])

    def _plan(self, epoch: int, start: int) -> list[list[tuple[int, int]]]:
        """Which pictures the batches hold, with the seed of each one's random transforms."""
        order = self.order(epoch).tolist()
        keyed = [
            (i, step_seed(self.seed, "augment", epoch, place)) for place, i in enumerate(order)
        ]
        size = self.batch_size
        return [keyed[p * size : (p + 1) * size] for p in range(start, len(self))]

    def _read(self, sampler: list[list[tuple[int, int]]]) -> Iterator[Batch]:
        loader = DataLoader(self._pictures, batch_sampler=sampler, num_workers=self._workers)
        for images, labels in loader:
            yield images.to(self._device), labels.to(self._device)

    def fingerprint(self) -> dict[str, str]:
        """Describe what decides the numbers."""
        return self._settings() | {
            "folder": self._pictures.describe(),
            "augment": self._description,
        }


class _Pictures(TorchDataset[tuple[Tensor, int]]):
    """Pictures by class, asked for by (index, seed of the random transforms)."""

    def __init__(
        self, folder: Path, left_out: Set[Path], *, transform: Any, indices: Tensor | None
    ) -> None:
        self._folder = folder
        by_class = paths_by_class(folder)
        self._classes = len(by_class)
        pairs = [(p, label) for label, paths in enumerate(by_class) for p in paths]
        self._pairs = [pair for pair in pairs if pair[0] not in left_out]
        self._transform = transform
        self._indices = list(range(len(self._pairs))) if indices is None else indices.tolist()

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        index, seed = key
        path, label = self._pairs[self._indices[index]]
        image = read_picture(path)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._transform(image), label

    def describe(self) -> str:
        """Name the folder's last part and its classes: a moved dataset is the same dataset."""
        return f"{self._folder.name}: {len(self)} pictures, {self._classes} classes"


def open_folder(path: str, *, skip: bool = False) -> FolderDataset:
    """Open `path` in ImageNet's layout.

    Args:
        path: the folder.
        skip: read every picture once, and leave out those that cannot be read; otherwise none is
            read before it is needed.

    Raises:
        DataError: a part or the pictures of a class are missing, or the parts have different
            classes.
    """
    root = Path(path).expanduser()
    parts = [root / part for part in ("train", "val")]
    classes = [[folder.name for folder in class_folders(part)] for part in parts]
    if classes[0] != classes[1]:
        odd = sorted(set(classes[0]) ^ set(classes[1]))
        raise DataError(f"train and val in {root} have different classes: {odd[:5]} in one only")
    paths = [p for part in parts for of_class in paths_by_class(part) for p in of_class]
    whole = read_all(paths, lambda p: read_picture(p) and p, skip=True) if skip else paths
    left_out = frozenset(paths) - frozenset(whole)
    return FolderDataset(f"folder:{path}", len(classes[0]), root, left_out=left_out)


def class_folders(part: Path) -> list[Path]:
    """The folders of a part, one a class, in the order of their names."""
    found = sorted(p for p in part.iterdir() if p.is_dir()) if part.is_dir() else []
    if not found:
        raise DataError(
            f"{part} holds no folders: wanted is ImageNet's layout, {part}/CLASS/picture.jpg"
        )
    return found


def paths_by_class(part: Path) -> list[list[Path]]:
    """The pictures of each class of a part."""
    folders = class_folders(part)
    found = [pictures_below(folder, folders) for folder in folders]
    for folder, paths in zip(folders, found, strict=True):
        if not paths:
            raise DataError(f"{folder} holds no pictures: wanted are files such as picture.jpg")
    return found


def _transform(augment: str, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Any:
    from torchvision import transforms

    random = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
    fixed = [transforms.Resize(round(size * RESIZE_RATIO)), transforms.CenterCrop(size)]
    ways = {"none": fixed, "resized_crop_flip": random}
    if augment not in ways:
        raise ConfigError(f"augment of a folder must be one of {', '.join(ways)}, got {augment!r}")
    return transforms.Compose(
        [*ways[augment], transforms.ToTensor(), transforms.Normalize(mean, std)]
    )
