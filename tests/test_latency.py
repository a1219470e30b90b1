"""Latency: forward passes in evaluation mode, timed, and nothing left behind."""

import time

import torch
from torch import nn

from dsa_core.lab.latency import latencies
from dsa_core.training import Precision
from dsa_core.training.stopwatch import WARM_UP


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
    [found] = latencies([model], torch.zeros(7, 1), repeats=3)
    assert 20 <= found.median_ms < 40
    assert 10 <= found.min_ms < 20
    assert (found.repeats, found.batch, found.device) == (3, 7, "cpu")
    assert found.threads == torch.get_num_threads()
    assert found.per_second == 7e3 / found.median_ms
    assert model.seen == [(False, False)] * (WARM_UP + 3)


def test_every_module_gets_its_own_mode_back():
    model = Sleeper([0] * 10).train()
    model.inner.eval()
    latencies([model], torch.zeros(1, 1), repeats=1)
    assert model.training
    assert not model.inner.training


def test_several_networks_are_timed_in_turn():
    slow, fast = Sleeper([30] * 20), Sleeper([5] * 20)
    order: list[str] = []
    slow.register_forward_hook(lambda *_: order.append("slow"))
    fast.register_forward_hook(lambda *_: order.append("fast"))
    first, second = latencies([slow, fast], torch.zeros(2, 1), repeats=4)
    assert first.min_ms > 25 > second.median_ms
    assert order == ["slow", "fast"] * (WARM_UP + 4)


def test_precision_decides_in_what_the_products_are_made_and_the_memory_order():
    layer, formats, orders = nn.Conv2d(3, 4, 3), [], []
    layer.register_forward_hook(lambda _, __, y: formats.append(y.dtype))
    layer.register_forward_pre_hook(
        lambda _, args: orders.append(args[0].is_contiguous(memory_format=torch.channels_last))
    )
    x = torch.zeros(2, 3, 8, 8)
    [found] = latencies([layer], x, repeats=1, precision=Precision("bf16", True))
    assert (set(formats), set(orders)) == ({torch.bfloat16}, {True})
    assert (found.precision, found.channels_last) == ("bf16", True)
