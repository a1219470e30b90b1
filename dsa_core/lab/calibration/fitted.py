"""A calibration: the fitted form, its errors, and where it is valid; stored as JSON."""

from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from dsa_core.budget import NS_PER_MS, Cost, QuadraticForm
from dsa_core.errors import ConfigError, first_problem
from dsa_core.files import write_atomically
from dsa_core.lab.machine import device_name


class Calibration(BaseModel):
    """The latency model of one network on one machine; frozen.

    Attributes:
        model: its name; empty for a network without one.
        shape: of the timed batch, examples first.
        device: the machine, with its threads.
        precision, channels_last: number format and memory order.
        divisor: timed widths are multiples of it.
        groups, sizes: names and channels of the prunable groups.
        constant_ms, linear_ms: terms 1 and a_k, in milliseconds of a batch.
        pairs_ms: k, j and the term a_k a_j.
        dense_ms: the whole network, measured.
        configurations: number of fitted widths.
        fit_error_median: relative error on those.
        held_out: number of widths timed but not fitted.
        error_median, error_max: on those, |predicted - measured| / measured.
        passes: timed forward passes per width; the shortest counts, as other work only adds.
        seconds: duration of the calibration.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    shape: tuple[int, ...]
    device: str
    precision: str
    channels_last: bool
    divisor: int
    groups: tuple[str, ...]
    sizes: tuple[int, ...]
    constant_ms: float
    linear_ms: tuple[float, ...]
    pairs_ms: tuple[tuple[int, int, float], ...]
    dense_ms: float
    configurations: int
    fit_error_median: float
    held_out: int
    error_median: float
    error_max: float
    passes: int
    seconds: float

    def cost(self) -> Cost:
        """The form as a cost, in nanoseconds, for `Budget(latency=..., calibrated=...)`."""
        Q = torch.zeros(len(self.sizes), len(self.sizes), dtype=torch.float64)
        for k, j, ms in self.pairs_ms:
            Q[k, j] += ms / 2
            Q[j, k] += ms / 2
        q = torch.tensor(self.linear_ms, dtype=torch.float64)
        form = QuadraticForm(Q, q, self.constant_ms).scaled(NS_PER_MS)
        return Cost("latency", form, torch.tensor(self.sizes), self.groups)

    def check(self, model: str, example: Tensor, divisor: int) -> None:
        """Refuse to use it where it is not valid.

        Raises:
            ConfigError: the name of the network, the device of the example (N, ...), the number of
                threads, the example's shape or the budget's divisor is not that of the calibration.
        """
        here = device_name(example.device)
        facts = {
            "the network": (self.model or model, model),
            "the machine": (self.device, here),
            "the shape of an example": (self.shape[1:], tuple(example.shape[1:])),
            "divisor": (self.divisor, divisor),
        }
        for name, (then, now) in facts.items():
            if then != now:
                raise ConfigError(
                    f"the calibration of {self.model or 'this network'} is not valid here: {name} "
                    f"was {then}, and is {now}. Calibrate again with `dsa calibrate`"
                )

    def write(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_atomically(path, self.model_dump_json(indent=1) + "\n")


def read_calibration(path: Path) -> Calibration:
    """Read a file written by `Calibration.write`.

    Raises:
        ConfigError: the file is missing or invalid; names the first wrong entry.
    """
    try:
        return Calibration.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"calibration {path} cannot be read: {error.strerror or error}. `dsa calibrate MODEL` "
            "writes one"
        ) from error
    except ValidationError as error:
        raise ConfigError(f"calibration {path}: {first_problem(error)}") from error
