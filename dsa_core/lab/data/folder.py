"""Images in a folder in ImageNet's layout, read from disk as they are needed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from dsa_core.errors import DataError
from dsa_core.lab.data.augment import augmentation
from dsa_core.lab.data.batches import AnyDataset, Device, Order, check_part
from dsa_core.lab.data.images import images_below, read_all, read_image
from dsa_core.training.batches import Batch, BatchSource
from dsa_core.training.processes import my_turns, share
from dsa_core.training.seeds import step_seed

SIZE = 224  # side of the square image, in pixels
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixel / 255
PARTS = {"train": "train", "test": "val"}  # folder of each part


@dataclass(frozen=True)
class FolderDataset(AnyDataset):
    """Images below PATH/train and PATH/val, one folder a class.

    Training images get a random resized crop and a flip, test images a centre crop.

    Attributes:
        files: path and class of every image of "train" and "test"; both are listed once, as
            ImageNet's 1.3 million files in 1000 folders take their time.
        workers: processes that read and decode images; 0 = this one does. They decide no number.
    """

    files: Mapping[str, list[tuple[str, int]]] = field(repr=False)
    augment: str = field(default="resized_crop_flip", kw_only=True)
    workers: int = 0

    def count(self, part: str) -> int:
        """Count the examples of "train" or "test"."""
        return len(self.files[check_part(part)])

    def make(
        self, part: str, indices: Tensor | None, augment: str, device: Device, order: Order
    ) -> "FolderBatches":
        """Make batches that read the files of one part."""
        files = self.files[part]
        files = files if indices is None else [files[i] for i in indices.tolist()]
        facts = {
            "folder": f"{PARTS[part]}: {len(files)} images, {self.num_classes} classes",
            "augment": f"{augment} {SIZE}",
        }
        images = _Images(files, _transform(augment))
        return FolderBatches(images, order, device=device, workers=self.workers, facts=facts)


class FolderBatches(BatchSource):
    """Batches read from disk; the same interface and the same promise as `Batches`."""

    def __init__(
        self,
        images: "_Images",
        order: Order,
        *,
        device: Device,
        workers: int,
        facts: dict[str, str],
    ) -> None:
        super().__init__(len(images), **order)
        self._images = images
        self._device = torch.device(device)
        self._workers = workers
        self._facts = facts
        self._idle: DataLoader[tuple[Tensor, int]] | None = None

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from position `start` on, see `BatchSource.epoch`."""
        return self._read(self._plan(epoch, start))

    def mine(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield this process's rows; it reads no other images."""
        return self._read([share(batch) for batch in self._plan(epoch, start)])

    def in_turn(self) -> Iterator[Batch]:
        """Yield this process's batches of epoch 0; it reads no other images."""
        return self._read(self._plan(0, 0)[my_turns()])

    def _plan(self, epoch: int, start: int) -> list[list[tuple[int, int]]]:
        """Which images the batches hold, with the seed of each one's random transforms."""
        order = self.order(epoch).tolist()
        keyed = [
            (i, step_seed(self.seed, "augment", epoch, place)) for place, i in enumerate(order)
        ]
        size = self.batch_size
        return [keyed[p * size : (p + 1) * size] for p in range(start, len(self))]

    def _read(self, plan: list[list[tuple[int, int]]]) -> Iterator[Batch]:
        """Yield the batches of a plan; the workers stay for the next one."""
        loader, self._idle = self._idle or self._loader(), None
        assert isinstance(loader.batch_sampler, list)
        loader.batch_sampler[:] = plan
        try:
            for images, labels in loader:
                yield (
                    images.to(self._device, non_blocking=True),
                    labels.to(self._device, non_blocking=True),
                )
        finally:
            self._idle = loader

    def _loader(self) -> "DataLoader[tuple[Tensor, int]]":
        return DataLoader(
            self._images,
            batch_sampler=[],  # `_read` fills it
            num_workers=self._workers,
            persistent_workers=self._workers > 0,
            pin_memory=self._device.type == "cuda",
            generator=torch.Generator(),  # it draws a seed that nobody reads; not from torch's own
        )

    def fingerprint(self) -> dict[str, str]:
        """Describe what decides the numbers: a moved dataset is the same dataset."""
        return self._settings() | self._facts


class _Images(TorchDataset[tuple[Tensor, int]]):
    """Images asked for by (index, seed of the random transforms)."""

    def __init__(self, files: list[tuple[str, int]], transform: Any) -> None:
        self._files, self._transform = files, transform

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        index, seed = key
        path, label = self._files[index]
        image = read_image(Path(path))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._transform(image), label


def open_folder(name: str, path: str, *, skip: bool) -> FolderDataset:
    """Open `path` in ImageNet's layout.

    Args:
        name: of the dataset.
        path: the folder.
        skip: read every image once, and leave out those that cannot be read; otherwise none is
            read before it is needed.

    Raises:
        DataError: a part or the images of a class are missing, or the parts have different
            classes.
    """
    root = Path(path).expanduser()
    folders = {part: class_folders(root / name) for part, name in PARTS.items()}
    train, test = ([folder.name for folder in found] for found in folders.values())
    if train != test:
        odd = sorted(set(train) ^ set(test))
        raise DataError(f"train and val in {root} have different classes: {odd[:5]} in one only")
    if len(train) < 2:
        raise DataError(f"{root} has one class alone, {train[0]}: wanted are two folders or more")
    files = {part: labelled(found) for part, found in folders.items()}
    if skip:
        every = [pair for pairs in files.values() for pair in pairs]
        whole = set(read_all(every, lambda pair: read_image(Path(pair[0])) and pair, skip=True))
        files = {part: [p for p in pairs if p in whole] for part, pairs in files.items()}
    return FolderDataset(name, len(train), files)


def class_folders(part: Path) -> list[Path]:
    """The folders of a part, one a class, in the order of their names."""
    found = sorted(p for p in part.iterdir() if p.is_dir()) if part.is_dir() else []
    if not found:
        raise DataError(
            f"{part} holds no folders: wanted is ImageNet's layout, {part}/CLASS/image.jpg"
        )
    return found


def labelled(folders: list[Path]) -> list[tuple[str, int]]:
    """The images of some classes, each with the place of its class."""
    beside = {folder.resolve() for folder in folders}
    found: list[tuple[str, int]] = []
    for label, folder in enumerate(folders):
        paths = images_below(folder, beside)
        if not paths:
            raise DataError(f"{folder} holds no images: wanted are files such as image.jpg")
        found += [(str(path), label) for path in paths]
    return found


def _transform(augment: str) -> Any:
    from torchvision import transforms

    random = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip()]
    fixed = [transforms.Resize(256), transforms.CenterCrop(SIZE)]
    chosen = augmentation(augment, {"none": fixed, "resized_crop_flip": random}, "a folder")
    normalised = [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    return transforms.Compose([*chosen, *normalised])
