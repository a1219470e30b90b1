"""Several processes that train one network: equal shares of every batch, averaged gradients.

Every process (rank) reads the same global batches in the same order, and keeps its own rows of
each; all draw the same masks, for masks depend on the seed and the step alone.
DistributedDataParallel averages the gradients, so that weights and keep ratios stay the same on
every rank. With a single process all of this does nothing.

`accelerate launch -m dsa_core run ...` or Accelerate's notebook launcher start the processes.

On GPUs BatchNorm trains by the statistics of the whole batch (`synced_batchnorm`). On CPUs one
difference to a single process remains: torch has no SyncBatchNorm there, each rank normalises by
its own rows, and running statistics are averaged over the ranks.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dsa_core.errors import ConfigError, TrainingError

T = TypeVar("T")
Rows = TypeVar("Rows", Tensor, list[Any])
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class ProcessGroup:
    """Which process this is, and of how many.

    Attributes:
        rank: 0 .. size - 1; rank 0 is the main process.
        size: number of processes.
    """

    rank: int
    size: int

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes files and prints."""
        return self.rank == 0

    @property
    def is_single(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1


def process_group() -> ProcessGroup:
    """Give the processes that torch.distributed joins; one process where it is not started."""
    if not (dist.is_available() and dist.is_initialized()):
        return ProcessGroup(0, 1)
    return ProcessGroup(dist.get_rank(), dist.get_world_size())


def share(rows: Rows) -> Rows:
    """This rank's rows of a global batch: every size-th one, so that all ranks have as many.

    Raises:
        ConfigError: they do not divide among the ranks.
    """
    size = process_group().size
    if len(rows) % size:
        raise ConfigError(
            f"batch_size: a batch of {len(rows)} does not divide among {size} processes; take a "
            f"multiple of {size}, and drop_last=True for the batches"
        )
    return rows[my_turns()]


def my_turns() -> slice:
    """Which of some things in a row this rank takes."""
    ranks = process_group()
    return slice(ranks.rank, None, ranks.size)


@torch.no_grad()
def average(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by their mean over the ranks, in place."""
    ranks = process_group()
    if ranks.is_single:
        return
    for tensor in tensors:
        total = tensor.contiguous()
        add_up(total)
        tensor.copy_(total / ranks.size)


def add_up(x: Tensor) -> None:
    """Replace x by its sum over the ranks, in place; TrainingError if another rank is gone."""
    try:
        dist.all_reduce(x)
    except RuntimeError as error:
        raise TrainingError(
            f"rank {process_group().rank} lost the other processes of this run ({error}): one of "
            "them has died or was stopped. The last checkpoint is whole; the same command "
            "resumes from it"
        ) from error


def distributed(model: nn.Module) -> nn.Module:
    """What to call in a training: the network, or DistributedDataParallel around it."""
    if process_group().is_single:
        return model
    return DistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=True)


def average_buffers(model: nn.Module) -> None:
    """Replace floating-point buffers (BatchNorm's running statistics) by their mean."""
    average(b for b in model.buffers() if b.is_floating_point())


def mean_and_sum(mean: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """A mean over the rows of all ranks, and a sum over them, from those of each rank."""
    ranks = process_group()
    if ranks.is_single:
        return mean, total
    both = torch.stack([mean.double(), total.double()])
    add_up(both)
    return both[0] / ranks.size, both[1]


def summed(*values: Tensor | float, device: torch.device) -> list[float]:
    """Numbers added up over the ranks, which exchange them on a device."""
    numbers = [float(value) for value in values]
    if process_group().is_single:
        return numbers
    total = torch.tensor(numbers, dtype=torch.float64, device=device)
    add_up(total)
    return total.tolist()


@contextmanager
def synced_batchnorm(model: nn.Module) -> Iterator[None]:
    """Let BatchNorm in training mode normalise by the statistics of all ranks' rows, on GPUs.

    A layer is torch's SyncBatchNorm for the length of a block, in place: hooks, parameters and
    buffers stay its own (`convert_sync_batchnorm` makes new layers). That refuses tensors of the
    CPU, where each rank keeps to its own rows.
    """
    single = process_group().is_single
    kinds = {m: type(m) for m in model.modules() if type(m) in NORMS and not single and on_gpu(m)}
    for norm in kinds:
        norm.__class__ = nn.SyncBatchNorm
        norm.__dict__["process_group"] = None  # all ranks
    try:
        yield
    finally:
        for norm, kind in kinds.items():
            norm.__class__ = kind
            del norm.process_group


def on_gpu(module: nn.Module) -> bool:
    """Whether a module's tensors are on a GPU."""
    return any(t.is_cuda for t in (*module.parameters(), *module.buffers()))


def agreed(value: T) -> T:
    """The main process's value, on every rank; for what was measured, such as a number format."""
    if process_group().is_single:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def wait() -> None:
    """Return when all ranks are here."""
    if not process_group().is_single:
        dist.barrier()
