"""Anybody's batches as the epochs of a training."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from typing import Any

from tqdm.auto import tqdm

from dsa_core.errors import ConfigError, DataError, check_whole

MOST = 100_000  # batches that are counted before an epoch is taken for endless


class Loader:
    """A DataLoader, a list of batches, or a function that makes an iterator of them.

    An epoch is one pass; where the length is not known, one pass is counted first. With
    `steps_per_epoch` an epoch is that many batches of a stream that continues from epoch to epoch
    and starts again where it ends; a resumed training reads the stream from its beginning.

    Args:
        given: what can be read again and again.
        steps_per_epoch: batches of an epoch; None for a whole pass.
        progress: show a bar while a pass is counted.

    Raises:
        ConfigError: it can be read only once, or is no iterable, or steps_per_epoch is none.
        DataError: it has no batch, or no end that could be counted.
    """

    def __init__(
        self,
        given: Iterable[Any] | Callable[[], Iterable[Any]],
        steps_per_epoch: int | None = None,
        *,
        progress: bool = True,
    ) -> None:
        self.read, self.samplers = reader(given), samplers(given)
        if steps_per_epoch is not None:
            check_whole("steps_per_epoch", steps_per_epoch, 1)
        self.stream = self._endless() if steps_per_epoch is not None else None
        self.steps = length(given) if steps_per_epoch is None else steps_per_epoch
        if self.steps is None:
            self.steps = counted(self.read(), progress)
        if self.steps == 0:
            raise DataError("train_loader has no batch: is the dataset empty, or drop_last set?")

    def __len__(self) -> int:
        """Batches of one epoch."""
        assert self.steps is not None
        return self.steps

    def mine(self, epoch: int) -> Iterator[Any]:
        """Yield the batches of an epoch; in several processes the loader's own sampler shares."""
        if self.stream is not None:
            return islice(self.stream, len(self))
        return not_empty(islice(self._pass(epoch), len(self)))

    def forever(self, start_step: int = 0) -> Iterator[Any]:
        """Yield batches without end, from this place of a pass."""
        return islice(self._endless(), start_step % len(self), None)

    def fingerprint(self) -> dict[str, str]:
        """All that is known of the data."""
        return {"batches": str(len(self))}

    def _endless(self) -> Iterator[Any]:
        for epoch in count():
            yield from not_empty(self._pass(epoch))

    def _pass(self, epoch: int) -> Iterator[Any]:
        for sampler in self.samplers:
            sampler.set_epoch(epoch)
        return self.read()


def not_empty(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield batches, of which there must be one."""
    empty = True
    for batch in batches:
        empty = False
        yield batch
    if empty:
        raise DataError(
            "train_loader gave no batch in a whole pass: can its dataset be read only once?"
        )


def reader(given: Any) -> Callable[[], Iterator[Any]]:
    """A function that starts a new pass; ConfigError if there is only one pass, or none."""
    if isinstance(given, Iterator):
        raise ConfigError(
            f"train_loader: a {type(given).__name__} can be read only once, and every epoch reads "
            "it again: pass the function that makes it (train_loader=batches, not batches()), a "
            "list, or a DataLoader"
        )
    if isinstance(given, Iterable):
        return lambda: iter(given)
    if callable(given) and not isinstance(given, type):
        return lambda: iter(given())
    raise ConfigError(
        "train_loader: wanted batches, such as a DataLoader, a list, or a function that yields "
        f"them, got {given!r}"
    )


def samplers(given: Any) -> list[Any]:
    """Those of a loader that want to know the epoch, such as torch's DistributedSampler."""
    batch = getattr(given, "batch_sampler", None)
    found = [given, getattr(given, "sampler", None), batch, getattr(batch, "sampler", None)]
    return [sampler for sampler in found if callable(getattr(sampler, "set_epoch", None))]


def length(given: Any) -> int | None:
    """Batches of a pass, where that is known."""
    try:
        return len(given)
    except TypeError:  # a function, or a DataLoader of an IterableDataset
        return None


def counted(batches: Iterator[Any], progress: bool) -> int:
    """Count a pass; DataError if it does not end."""
    remedy = "pass steps_per_epoch="
    warnings.warn(
        f"train_loader has no length: one pass is read to count its batches; {remedy} saves that, "
        "and is needed where there is no end",
        stacklevel=4,
    )
    bar = tqdm(islice(batches, MOST), desc="counting", unit="batch", disable=not progress)
    steps = sum(1 for _ in bar)
    if steps == MOST:
        raise DataError(f"train_loader gave {MOST} batches without an end: {remedy}")
    return steps
