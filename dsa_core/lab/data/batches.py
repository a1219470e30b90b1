"""Batches as a pure function of (seed, epoch, position): what makes an exact resume possible."""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import torch
from torch import Tensor

from dsa_core.errors import ConfigError, DataError
from dsa_core.lab.data.augment import AUGMENTATIONS, augment_batch, augmentation
from dsa_core.training.batches import Batch, BatchSource
from dsa_core.training.seeds import generator
from dsa_core.training.task import Task, classification

Device = torch.device | str


def split(n: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split 0 .. n-1 at random into a first part of round(fraction n) indices and the rest.

    DSA trains weights on one part (0.9) and keep ratios on the other (0.1).

    Args:
        n: how many, at least 2.
        fraction: share of the first part, in (0, 1), such that neither part is empty.
        seed: the same seed gives the same split on every machine.

    Returns:
        Two sorted, disjoint int64 tensors that together are 0 .. n-1.

    Raises:
        ConfigError: a part would be empty.
    """
    first = round(fraction * n)
    if not 0 < first < n:
        raise ConfigError(
            f"split of {n} examples at fraction {fraction} leaves a part empty: "
            f"wanted is a fraction between {1 / n:.3g} and {1 - 1 / n:.3g}"
        )
    order = torch.randperm(n, generator=generator(seed, "split"))
    return order[:first].sort().values, order[first:].sort().values


def check_part(part: str) -> str:
    """Return `part` if it is "train" or "test".

    Raises:
        ConfigError: it is neither.
    """
    if part not in ("train", "test"):
        raise ConfigError(f"part must be 'train' or 'test', got {part!r}")
    return part


class Order(TypedDict):
    """What a `BatchSource` is told of size and order."""

    batch_size: int
    seed: int
    shuffle: bool
    drop_last: bool


@dataclass(frozen=True)
class AnyDataset(ABC):
    """A dataset with its task.

    Attributes:
        name: as `load` knows it.
        num_classes: labels are in 0 .. num_classes - 1; for images to be enlarged, 3 colours.
        augment: the augmentation its training batches get by default.
        task: loss and score.
    """

    name: str
    num_classes: int
    augment: str = field(kw_only=True)
    task: Task = field(default_factory=classification, kw_only=True)

    @abstractmethod
    def count(self, part: str) -> int:
        """Count the examples of "train" or "test"."""

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
        device: Device = "cpu",
    ) -> BatchSource:
        """Make batches of one part, or of some of its examples.

        Args:
            part: "train" or "test"; test images to be enlarged come one by one.
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
        default = self.augment if training else "none"
        order: Order = {
            "batch_size": batch_size,
            "seed": seed,
            "shuffle": training if shuffle is None else shuffle,
            "drop_last": drop_last,
        }
        return self.make(part, indices, default if augment is None else augment, device, order)

    @abstractmethod
    def make(
        self, part: str, indices: Tensor | None, augment: str, device: Device, order: Order
    ) -> BatchSource:
        """What `batches` returns, its defaults filled in."""


class Batches(BatchSource):
    """Batches from one uint8 tensor held in memory, augmented and normalised batch by batch."""

    what = "images"
    known: Mapping[str, Any] = AUGMENTATIONS  # augmentations by name

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        augment: str = "none",
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        device: Device = "cpu",
    ) -> None:
        """Set up; the images move to `device` at once, where all later work is done.

        Args:
            images: uint8, shape (N, C, H, W).
            labels: shape (N, ...), int64 for classes.
            mean: mean of each channel, in [0, 1] (of pixel / 255).
            std: standard deviation of each channel, > 0, in the same unit.
            batch_size, augment, seed, shuffle, drop_last, device: see `AnyDataset.batches`.

        Raises:
            DataError: shapes or types do not fit.
            ConfigError: a setting is out of range.
        """
        super().__init__(
            len(images), batch_size=batch_size, seed=seed, shuffle=shuffle, drop_last=drop_last
        )
        _check(images, labels, channels=(len(mean), len(std)))
        self.augment, self.how = augment, augmentation(augment, self.known, self.what)
        self._images = images.to(device)
        self._labels = labels.to(device)
        # (pixel / 255 - mean) / std = pixel scale - shift
        deviation = torch.tensor(std, device=device).view(1, -1, 1, 1)
        self._scale = 1 / (255 * deviation)
        self._shift = torch.tensor(mean, device=device).view(1, -1, 1, 1) / deviation

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from position `start` on, see `BatchSource.epoch`."""
        order = self.order(epoch).to(self._images.device)
        for position in range(start, len(self)):
            chosen = order[position * self.batch_size : (position + 1) * self.batch_size]
            yield self._batch(chosen, epoch, position)

    def fingerprint(self) -> dict[str, str]:
        """Describe what decides the numbers; of the images, by a checksum of a few."""
        some = self._images[:: max(1, self.n // 64)]
        return self._settings() | {
            "augment": self.augment,
            "image": str(tuple(self._images.shape[1:])),
            "normalisation": f"{self._scale.flatten().tolist()} {self._shift.flatten().tolist()}",
            "labels": checksum(self._labels),
            "images": checksum(some),
        }

    def _batch(self, chosen: Tensor, epoch: int, position: int) -> Batch:
        draw = generator(self.seed, "augment", epoch, position)
        x, y = self.pair(self._images[chosen], self._labels[chosen], draw)
        return x.float().mul_(self._scale).sub_(self._shift), y

    def pair(self, images: Tensor, labels: Tensor, draw: torch.Generator) -> Batch:
        """Augment some images; what happens to their labels, where it has to, is up to kinds.

        Returns:
            x, not yet normalised, in the range 0 .. 255 and free to be changed; y, the targets.
        """
        return augment_batch(images, self.how, draw), labels


def _check(images: Tensor, labels: Tensor, *, channels: tuple[int, int]) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise DataError(
            f"images must be uint8 of shape (N, C, H, W), got {images.dtype} {tuple(images.shape)}"
        )
    if len(labels) != len(images):
        raise DataError(f"there are {len(images)} images but {len(labels)} labels")
    if channels != (images.shape[1],) * 2:
        raise ConfigError(
            f"mean and std need one number for each of {images.shape[1]} channels, "
            f"got {channels[0]} and {channels[1]}"
        )


def checksum(values: Tensor) -> str:
    """CRC-32 of the bytes of a tensor, eight hexadecimal digits."""
    return f"{zlib.crc32(values.cpu().contiguous().numpy().tobytes()):08x}"
