"""The recorder finds what torch.export finds, changes nothing, and leaves to it what it cannot."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from problems_networks import TOYS, Lambda, Toy, chain, conv
from test_fuzz_networks import CASES, X, network
from torch import Tensor, nn

from dsa_core.channels import recorder
from dsa_core.channels.assemble import interpret
from dsa_core.channels.export import export
from dsa_core.channels.program import Program
from dsa_core.channels.remedies import Remedies
from dsa_core.errors import TraceError
from dsa_core.example import Call
from dsa_core.lab import models


def plain(value: Any) -> Any:
    """All that a graph holds, in a form that == compares."""
    if isinstance(value, Tensor):
        return value.tolist()
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def found(program: Program, model: nn.Module, call: Call) -> Any:
    try:
        return plain(interpret(program, model, call, Remedies()))
    except TraceError as error:
        return str(error)


def recorded(model: nn.Module, example: Any) -> bool:
    """Whether the recorder took a network; if so, it and torch.export say the same."""
    call = Call.of(example)
    program = recorder.record(model, call)
    if program is not None:
        assert found(program, model, call) == found(export(model, call), model, call)
    return program is not None


@pytest.mark.parametrize("toy", TOYS, ids=lambda t: t.name)
def test_networks_of_every_kind_give_the_same_graph(toy: Toy) -> None:
    assert recorded(toy.build(), torch.zeros(2, *toy.shape)) or toy.name == "tied modules"


@pytest.mark.fuzz
def test_random_networks_give_the_same_graph() -> None:
    taken = [recorded(network(seed)[1], X) for seed in range(CASES)]
    assert sum(taken) > 0.9 * CASES


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5", "swin_t"])
def test_known_networks_give_the_same_graph(name: str) -> None:
    assert recorded(models.build(name), models.example_input(name)[:, :, :64, :64])


def counting(x: Tensor) -> Tensor:
    return x + x.new_tensor([float(x.sum() > 0)])


@pytest.mark.parametrize(
    "function", [counting, lambda x: x[x > 0].mean() + x, lambda x: x * x.numpy().max()]
)
def test_what_reads_values_is_left_to_export(function: Callable[[Tensor], Tensor]) -> None:
    model = chain(5, a=conv(3, 6), f=Lambda(function), b=conv(6, 5))
    assert recorder.record(model, Call.of(torch.zeros(1, 3, 8, 8))) is None


class Busy(nn.Module):
    """Draws random numbers, counts its calls, and keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.seen = conv(3, 4), 0
        self.register_buffer("total", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        self.seen, self.last = self.seen + 1, y
        self.total += y.sum((0, 2, 3))
        return y + torch.rand(1) * torch.randn_like(y)


def test_a_recorded_network_is_as_before() -> None:
    model = Busy()
    before, state = dict(vars(model)), torch.get_rng_state()
    assert recorder.record(model, Call.of(torch.ones(1, 3, 8, 8))) is not None
    assert vars(model) == before
    assert model.training
    assert not model.total.any()
    assert torch.equal(torch.get_rng_state(), state)
