"""What a training reads: epochs of batches, each a pure function of (seed, epoch, position)."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from dsa_core.errors import ConfigError, DataError
from dsa_core.example import tensors_in
from dsa_core.training.loader import Loader
from dsa_core.training.processes import my_turns, share
from dsa_core.training.seeds import generator

Batch = tuple[Tensor, Tensor]


class BatchSource(ABC):
    """Epochs of batches (x, y), each a pure function of (seed, epoch, position).

    Attributes:
        n: number of examples.
        batch_size: examples in a batch; the last batch of an epoch may be smaller.
        seed: seed of order and augmentation.
        shuffle: whether each epoch has its own order.
        drop_last: whether a smaller last batch is left out.
    """

    def __init__(
        self, n: int, *, batch_size: int, seed: int, shuffle: bool, drop_last: bool
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        if n < (batch_size if drop_last else 1):
            raise DataError(
                f"{n} examples make no batch of {batch_size} with drop_last={drop_last}: "
                "use a smaller batch_size or more examples"
            )
        self.n = n
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last

    def __len__(self) -> int:
        """Count the batches of one epoch."""
        return self.n // self.batch_size if self.drop_last else -(-self.n // self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """Give the order of the examples in an epoch, shape (n,), int64."""
        if not self.shuffle:
            return torch.arange(self.n)
        return torch.randperm(self.n, generator=generator(self.seed, "order", epoch))

    @abstractmethod
    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from position `start` on.

        Yields:
            x, normalised float32 of shape (B, C, H, W), and y, the targets.
        """

    @abstractmethod
    def fingerprint(self) -> dict[str, str]:
        """Describe everything that decides which numbers come out, for checkpoints."""

    def mine(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield this process's rows of the batches of an epoch, see `processes.share`."""
        return ((share(x), share(y)) for x, y in self.epoch(epoch, start))

    def in_turn(self) -> Iterator[Batch]:
        """Yield this process's batches of epoch 0: of n processes, each takes every n-th."""
        turns = my_turns()
        return islice(self.epoch(0), turns.start, None, turns.step)

    def forever(self, start_step: int = 0) -> Iterator[Batch]:
        """Yield this process's rows of batches without end, from a step on.

        Step t is position t mod len of epoch t // len: a resumed search sees what it would have.
        """
        epoch, start = divmod(start_step, len(self))
        while True:
            yield from self.mine(epoch, start)
            epoch, start = epoch + 1, 0

    def _settings(self) -> dict[str, str]:
        return {
            "examples": str(self.n),
            "batch_size": str(self.batch_size),
            "data seed": str(self.seed),
            "shuffle": str(self.shuffle),
            "drop_last": str(self.drop_last),
        }


Feed = BatchSource | Loader


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch on a device: tensors and all that has a `to`, in tuples, lists and dicts."""
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        parts = [to_device(value, device) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def examples_in(batch: Any) -> int:
    """Examples in a batch: the first axis of its first tensor that has one; 1 where none is."""
    return next((len(t) for t in tensors_in(batch) if t.ndim and len(t)), 1)
