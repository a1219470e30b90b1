"""Wall-clock and CPU time."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from dsa_core.training.memory import keep_freed_memory

WARM_UP = 3  # untimed rounds


class Stopwatch:
    """A stopwatch that starts when it is created."""

    def __init__(self) -> None:
        self.seconds, self.processor = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """Wall-clock "seconds" since the start, and "processor_seconds", of all threads."""
        return {
            "seconds": time.perf_counter() - self.seconds,
            "processor_seconds": time.process_time() - self.processor,
        }


def total_time(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums of "seconds" and "processor_seconds"; older checkpoints may lack the latter."""
    parts = list(parts)
    return {
        "seconds": sum(part["seconds"] for part in parts),
        "processor_seconds": sum(part.get("processor_seconds", 0.0) for part in parts),
    }


def in_turn(
    runs: Sequence[Callable[[], object]],
    device: torch.device,
    *,
    repeats: int,
    warm_up: int = WARM_UP,
) -> list[list[float]]:
    """Time calls in alternation, so that a busy moment does not hit only one of them.

    The first `warm_up` rounds are not counted. On a CPU freed memory is kept, as in training;
    otherwise much of the time goes into the system clearing pages for every output (see
    `keep_freed_memory`).

    Returns:
        Milliseconds: for each call, its time in every round.
    """
    keep_freed_memory(device)
    rounds = [[milliseconds(run, device) for run in runs] for _ in range(warm_up + repeats)]
    return [list(times) for times in zip(*rounds[warm_up:], strict=True)]


def milliseconds(run: Callable[[], object], device: torch.device) -> float:
    """Time one call, including the work it queues on the device."""
    synchronise(device)
    start = time.perf_counter()
    run()
    synchronise(device)
    return 1e3 * (time.perf_counter() - start)


def synchronise(device: torch.device) -> None:
    """Wait for the work queued on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
