"""The interface of `dsa_core.pruner.Pruner` for the training loop."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor


class PrunerLike(Protocol):
    """Hooks into a network and its optimizer during a training; `Pruner` documents each."""

    @property
    def wants_held_out(self) -> bool:
        """Whether it needs a held-out batch before the next step."""

    @property
    def held_out_steps(self) -> int:
        """Number of held-out batches used."""

    @property
    def searching(self) -> bool:
        """Whether its warm-up is over."""

    def attach(self, *optimizers: torch.optim.Optimizer) -> Any:
        """Hook into the model and its optimizer."""

    def detach(self) -> None:
        """Remove the hooks and restore the exact weights."""

    def collect(self) -> None:
        """Convert the gradients before they are clipped."""

    def held_out_step(self, loss: Callable[[], Tensor]) -> None:
        """Use a held-out batch."""

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""

    def load_state_dict(self, state: Any) -> None:
        """From the checkpoint."""

    def fingerprint(self) -> dict[str, str]:
        """What the checkpoint must match."""
