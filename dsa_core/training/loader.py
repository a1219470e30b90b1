"""Any iterable of batches as epochs of a known length."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from tqdm.auto import tqdm

from dsa_core.errors import ConfigError

LONGEST_COUNT = 1_000_000  # batches of a loader without a length, before it is taken for endless


class LoaderBatches:
    """Epochs of exactly `steps` batches of somebody's loader, which begins anew where it ends.

    Args:
        loader: a DataLoader, a list of batches, or a function without arguments that returns an
            iterator (called for every pass).
        steps: batches of an epoch; None for the loader's own length, which is counted in a pass of
            its own where it does not tell.
        progress: show a bar while counting.

    Raises:
        ConfigError: the loader can be gone through only once, has no end, or no batches.
    """

    def __init__(self, loader: Any, *, steps: int | None = None, progress: bool = True) -> None:
        self.again = starter(loader)
        self.steps = steps or known_length(loader) or count(self.again, progress=progress)
        if self.steps < 1:
            raise ConfigError(f"steps_per_epoch: wanted a whole number >= 1, got {self.steps}")

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self.steps

    def forever(self, start_step: int = 0) -> Iterator[Any]:
        """Batches without end; where a run begins does not matter to a loader."""
        while True:
            some = False
            for batch in self.again():
                some = True
                yield batch
            if not some:
                raise ConfigError("train_loader: it gave no batch")

    def mine(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of one epoch."""
        return islice(self.forever(), self.steps)

    epoch = mine

    def fingerprint(self) -> dict[str, str]:
        """What is known of the numbers: how many batches there are."""
        return {"batches of an epoch": str(self.steps)}


def starter(loader: Any) -> Callable[[], Iterable[Any]]:
    """What begins a new pass over a loader."""
    if isinstance(loader, Iterator):
        raise ConfigError(
            f"train_loader: a {type(loader).__name__} can be gone through only once: give the "
            "function that makes it, a DataLoader, or a list of batches"
        )
    if callable(loader) and not isinstance(loader, Iterable):
        found: Callable[[], Iterable[Any]] = loader
        return found
    if not isinstance(loader, Iterable):
        raise ConfigError(
            f"train_loader: wanted an iterable of batches, got {type(loader).__name__}"
        )
    return lambda: iter(loader)


def known_length(loader: Any) -> int | None:
    """The number of batches that a loader tells; None if it does not."""
    try:
        return len(loader)
    except TypeError:  # of an IterableDataset, or of a function
        return None


def count(again: Callable[[], Iterable[Any]], *, progress: bool) -> int:
    """Count the batches of one pass."""
    n = 0
    for _ in tqdm(again(), desc="counting batches", unit="batch", disable=not progress):
        n += 1
        if n > LONGEST_COUNT:
            raise ConfigError(
                f"train_loader: no end after {LONGEST_COUNT} batches; say steps_per_epoch="
            )
    return n
