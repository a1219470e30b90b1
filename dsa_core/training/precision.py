"""Number format and memory order."""

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from dsa_core.errors import ConfigError
from dsa_core.training.config import PrecisionName
from dsa_core.training.seeds import isolated_rng
from dsa_core.training.stopwatch import in_turn

REPEATS = 3  # timed passes of each candidate
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Precision:
    """The format in which a network runs.

    Attributes:
        name: "fp32" or "bf16" (autocast; weights stay float32).
        channels_last: whether images are stored pixel by pixel instead of channel by channel.
        milliseconds: shortest time of a forward and backward pass of each candidate, with keys such
            as "bf16 channels_last"; empty if nothing was measured.
    """

    name: str
    channels_last: bool
    milliseconds: dict[str, float] = field(default_factory=dict)


FP32 = Precision("fp32", channels_last=False)
BF16 = Precision("bf16", channels_last=True)


def autocast(
    precision: Precision, device: torch.device
) -> contextlib.AbstractContextManager[object]:
    """The context for running a network in `precision`: autocast for bf16, nothing for fp32.

    Raises:
        ConfigError: the name is neither "fp32" nor "bf16".
    """
    if precision.name not in DTYPES:
        raise ConfigError(f"precision must be 'fp32' or 'bf16' here, got {precision.name!r}")
    if precision.name == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision.name])


def place(x: Tensor, precision: Precision) -> Tensor:
    """Convert images, (N, C, H, W), to the memory order; other shapes are unchanged."""
    if precision.channels_last and x.ndim == 4:
        return x.contiguous(memory_format=torch.channels_last)
    return x


def place_model(model: nn.Module, precision: Precision) -> None:
    """Convert the weights of a model to the memory order, in place; values do not change."""
    order = torch.channels_last if precision.channels_last else torch.contiguous_format
    model.to(memory_format=order)


def choose_precision(
    model: nn.Module,
    x: Tensor,
    *,
    loss: Callable[[Tensor], Tensor] | None = None,
    precision: PrecisionName = "auto",
    channels_last: bool | Literal["auto"] = "auto",
) -> Precision:
    """Choose the fastest of the allowed formats, timed on deep copies of the model.

    Which is faster depends on the processor, the network and its channel counts (odd ones can make
    bf16 slow), so it is measured: one pass to warm up, then the shortest of three forward and
    backward passes of each candidate (the shortest, as other work on the machine only adds). A
    single candidate is not measured. The random state of torch is restored.

    Args:
        model: on its device, in the mode in which it will run.
        x: a real batch on that device.
        loss: outputs -> scalar; None = mean of squares.
        precision, channels_last: "auto" = both.
    """
    names = ["fp32", "bf16"] if precision == "auto" else [precision]
    orders = [False, True] if channels_last == "auto" else [bool(channels_last)]
    candidates = [Precision(name, order) for name in names for order in orders]
    if len(candidates) == 1:
        return candidates[0]
    loss = loss or (lambda outputs: outputs.float().square().mean())
    passes = [_trial(model, x, loss, candidate) for candidate in candidates]
    with isolated_rng(x.device):
        times = [min(each) for each in in_turn(passes, x.device, repeats=REPEATS, warm_up=1)]
    measured = {
        c.name + " channels_last" * c.channels_last: round(ms, 3)
        for c, ms in zip(candidates, times, strict=True)
    }
    best = candidates[times.index(min(times))]
    return Precision(best.name, best.channels_last, measured)


def _trial(
    model: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor], candidate: Precision
) -> Callable[[], None]:
    """A forward and backward pass of a copy of the model."""
    trial, placed = copy.deepcopy(model), place(x, candidate)
    place_model(trial, candidate)

    def run() -> None:
        with autocast(candidate, x.device):
            value = loss(trial(placed))
        value.backward()

    return run
