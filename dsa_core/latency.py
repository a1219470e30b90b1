"""How long a forward pass takes here and now."""

import statistics
import time

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn


class Latency(BaseModel):
    """Time of a forward pass of one batch.

    Attributes:
        median_ms, min_ms: over `repeats` passes, in milliseconds.
        repeats: timed passes, after three to warm up.
        batch: examples in the batch.
        threads: torch's threads, on a CPU.
        device: where it ran.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    median_ms: float
    min_ms: float
    repeats: int
    batch: int
    threads: int
    device: str


@torch.no_grad()
def latency(model: nn.Module, x: Tensor, *, repeats: int = 15) -> Latency:
    """Time forward passes in evaluation mode, float32; the model's mode comes back."""
    was_training = model.training
    model.eval()
    times = []
    for i in range(repeats + 3):
        synchronise(x.device)
        start = time.perf_counter()
        model(x)
        synchronise(x.device)
        if i >= 3:
            times.append(1e3 * (time.perf_counter() - start))
    model.train(was_training)
    return Latency(
        median_ms=statistics.median(times),
        min_ms=min(times),
        repeats=repeats,
        batch=len(x),
        threads=torch.get_num_threads(),
        device=str(x.device),
    )


def synchronise(device: torch.device) -> None:
    """Wait for queued work, where a device queues."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
