"""Latency: forward passes in evaluation mode, timed, and nothing left behind."""

import time

import torch
from torch import nn

from dsa_core.latency import WARM_UP, latency


class Sleeper(nn.Module):
    """Takes a known time; remembers in which mode and with which gradients it ran."""

    def __init__(self, milliseconds: list[float]) -> None:
        super().__init__()
        self.inner = nn.Dropout()
        self.milliseconds = iter(milliseconds)
        self.seen: list[tuple[bool, bool]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append((self.training, torch.is_grad_enabled()))
        time.sleep(next(self.milliseconds) / 1e3)
        return x


def test_median_and_shortest_without_the_warm_up():
    model = Sleeper([60] * WARM_UP + [10, 40, 20])
    found = latency(model, torch.zeros(7, 1), repeats=3)
    assert 20 <= found.median_ms < 40
    assert 10 <= found.min_ms < 20
    assert (found.repeats, found.batch, found.device) == (3, 7, "cpu")
    assert found.threads == torch.get_num_threads()
    assert model.seen == [(False, False)] * (WARM_UP + 3)


def test_every_module_gets_its_own_mode_back():
    model = Sleeper([0] * 10).train()
    model.inner.eval()
    latency(model, torch.zeros(1, 1), repeats=1)
    assert model.training
    assert not model.inner.training
