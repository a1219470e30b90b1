"""A moving average of a network's weights while it trains."""

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dsa_core.training.processes import average


class WeightAverage:
    """Follows weights w_t and BatchNorm's statistics: a_t = d_t a_{t-1} + (1 - d_t) w_t.

    With d_t = min(decay, (1 + t) / (10 + t)) after step t, so that what a training started from is
    soon forgotten (the rule of TensorFlow's ExponentialMovingAverage).

    Args:
        model: in its final memory order; its tensors are changed in place from here on.
        decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.parameters = list(model.parameters())
        self.buffers = [b for b in model.buffers() if b.is_floating_point()]
        self.values = [t.detach().clone() for t in (*self.parameters, *self.buffers)]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        get_ema_multi_avg_fn(decay)(self.values, [*self.parameters, *self.buffers], self.steps)

    @torch.no_grad()
    def put_in(self) -> None:
        """Put the average into the network."""
        for tensor, value in zip((*self.parameters, *self.buffers), self.values, strict=True):
            tensor.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint; each rank has seen statistics of its own, all get their mean."""
        average(self.values[len(self.parameters) :])
        return {"steps": self.steps, "values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.steps = state["steps"]
        for value, saved in zip(self.values, state["values"], strict=True):
            value.copy_(saved)
