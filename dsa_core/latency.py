"""How long a forward pass takes here and now."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from dsa_core.surgery.onnx_file import onnx_session
from dsa_core.training import mode

WARM_UP = 3  # passes that are not counted


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
    """Time forward passes in evaluation mode, float32; every module's own mode comes back.

    Args:
        model: on the device of x.
        x: one batch.
        repeats: timed passes, at least 1.
    """
    with mode(model, training=False):
        return timed(lambda: model(x), x, repeats=repeats)


def onnx_latency(path: Path, x: Tensor, *, repeats: int = 15) -> Latency:
    """Time a network in ONNX Runtime on the CPU, on as many threads as torch takes.

    Args:
        path: an ONNX file, see `surgery.export_onnx`.
        x: one batch.
        repeats: timed passes, at least 1.
    """
    session, batch = onnx_session(path), x.detach().cpu().float()
    name, array = session.get_inputs()[0].name, batch.numpy()
    return timed(lambda: session.run(None, {name: array}), batch, repeats=repeats)


def timed(run: Callable[[], object], x: Tensor, *, repeats: int) -> Latency:
    """Time a call that takes the batch x through a network."""
    times = []
    for _ in range(repeats + WARM_UP):
        synchronise(x.device)
        start = time.perf_counter()
        run()
        synchronise(x.device)
        times.append(1e3 * (time.perf_counter() - start))
    times = times[WARM_UP:]
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
