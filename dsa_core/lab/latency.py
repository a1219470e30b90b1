"""Measure how long a forward pass takes on this machine."""

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from dsa_core.surgery.onnx_file import onnx_session
from dsa_core.training import FP32, Precision, autocast, mode, place
from dsa_core.training.stopwatch import in_turn


class Latency(BaseModel):
    """Time of a forward pass of one batch.

    Attributes:
        median_ms, min_ms: over `repeats` passes, in milliseconds.
        repeats: timed passes, after three warm-up passes.
        batch: examples in the batch.
        threads: torch's threads, on a CPU.
        device: where it ran.
        precision: "fp32" or "bf16".
        channels_last: memory order of the images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    median_ms: float
    min_ms: float
    repeats: int
    batch: int
    threads: int
    device: str
    precision: str = "fp32"
    channels_last: bool = False

    @property
    def per_second(self) -> float:
        """Examples a second, at the median."""
        return 1e3 * self.batch / self.median_ms


def latencies(
    models: Sequence[nn.Module], x: Tensor, *, repeats: int = 15, precision: Precision = FP32
) -> list[Latency]:
    """Time forward passes of networks in alternation, in evaluation mode; modes are restored.

    Args:
        models: on the device of x, in the memory order of `precision` (see `place_model`).
        x: one batch.
        repeats: timed passes of each network, at least 1.
        precision: number format and memory order.
    """
    columns = forward_times(models, x, repeats=repeats, precision=precision)
    return [summary(times, x, precision) for times in columns]


@torch.no_grad()
def forward_times(
    models: Sequence[nn.Module], x: Tensor, *, repeats: int = 15, precision: Precision = FP32
) -> list[list[float]]:
    """What `latencies` sums up: for each network its milliseconds in every round."""
    x = place(x, precision)

    def forward(model: nn.Module) -> None:
        with autocast(precision, x.device):
            model(x)

    with ExitStack() as stack:
        for model in models:
            stack.enter_context(mode(model, training=False))
        return in_turn([partial(forward, m) for m in models], x.device, repeats=repeats)


def onnx_latency(path: Path, x: Tensor) -> Latency:
    """Time a network of `export_onnx` in ONNX Runtime on the CPU, on as many threads as torch."""
    [times] = in_turn([onnx_call(path, x)], torch.device("cpu"), repeats=15)
    return summary(times, x.cpu(), FP32)


def onnx_call(path: Path, x: Tensor) -> Callable[[], object]:
    """A call that runs an ONNX file on a batch."""
    session = onnx_session(path)
    feed = {session.get_inputs()[0].name: x.detach().cpu().float().numpy()}
    return lambda: session.run(None, feed)


def summary(times: Sequence[float], x: Tensor, precision: Precision) -> Latency:
    """Summarise the times of some passes."""
    return Latency(
        median_ms=statistics.median(times),
        min_ms=min(times),
        repeats=len(times),
        batch=len(x),
        threads=torch.get_num_threads(),
        device=str(x.device),
        precision=precision.name,
        channels_last=precision.channels_last,
    )
