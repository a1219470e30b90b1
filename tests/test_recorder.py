"""The recorded operators give the graph that torch.export gives; what is unsure is exported."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import test_fuzz_networks as fuzz
import torch
import torch.nn.functional as F
from problems_networks import Net, conv
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dsa_core.channels import assemble, follow, quick, recorder
from dsa_core.channels.export import export, program_of
from dsa_core.channels.remedies import Clues
from dsa_core.errors import TraceError
from dsa_core.example import Call
from dsa_core.lab import models

X = torch.rand(2, 3, 8, 8)


def plain(value: Any) -> Any:
    """A graph as something that `==` compares, the order in dicts included."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Clues):
        value = [list(map(value.on_view, range(len(value.views)))), value.modules]
    if dataclasses.is_dataclass(value):
        return plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if isinstance(value, dict):
        return [(name, plain(item)) for name, item in value.items()]
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def both_ways(model: nn.Module, example: Any) -> None:
    """The recorder is sure, and its graph is that of torch.export, or its refusal the same."""
    call, found = Call.of(example), []
    recorded = recorder.record(model, call)
    for program in (recorded, program_of(export(model, call), model)):
        try:
            found.append(plain(assemble.interpret(program, model, call, None)))
        except TraceError as error:
            found.append(str(error))
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", sorted(fuzz.KINDS))
def test_the_graph_of_a_block_is_that_of_torch_export(kind: str) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        model = fuzz.Grown([kind, "conv norm", kind])
    both_ways(model, fuzz.X)


class Rounded(torch.autograd.Function):
    """Rounds; the gradient passes."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient


@torch.jit.script
def scripted(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x) + 1


def in_regions(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = net.a(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return net.b(y.relu())


def in_parts(net: nn.Module, x: Tensor) -> Tensor:
    y = net.a(x)
    y[:, :2] += 1
    y[:, 2:4].mul_(y[:, :2])
    return net.b(y)


FAR = torch.rand(6, 1, 1)
FORMS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "function of autograd": lambda n, x: n.b(Rounded.apply(n.a(x))),
    "regions": in_regions,
    "parts written in place": in_parts,
    "constants": lambda n, x: n.b(n.a(x) * FAR + torch.tensor([2.0]) + torch.ones(6, 1, 1)
                                 + torch.Tensor([1.0])),
    "random numbers": lambda n, x: n.b(n.a(x) + torch.randn(6, 1, 1) * torch.rand_like(x[:, :1])),
    "on the device": lambda n, x: n.b(n.a(x) * torch.arange(6, device=x.device)[:, None, None]),
    "by kind of device": lambda n, x: n.b(n.a(x)).relu() if x.device.type == "cpu" else n.a(x),
    "buffer counted": lambda n, x: n.b(n.a(x)) + n.calls.add_(1),
    "weights turned": lambda n, x: F.conv_transpose2d(n.a(x), n.b.weight.transpose(0, 1)),
    "checkpoint": lambda n, x: n.b(checkpoint(n.a, x, use_reentrant=False)),
    "twice": lambda n, x: n.b(n.a(n.a(x)[:, :3])),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_the_graph_of_a_forward_is_that_of_torch_export(form: str) -> None:
    model = Net(FORMS[form], 4, a=conv(3, 6, 1), b=conv(6, 4, 1))
    model.register_buffer("calls", torch.zeros(()))
    both_ways(model, X)
    assert float(model.calls) == 0


def test_a_module_of_two_names_has_its_first() -> None:
    model = Net(lambda n, x: n.again(n.b(n.a(x))), 6, a=conv(3, 6), b=conv(6, 3))
    model.again = model.a
    both_ways(model, X)
    assert [layer.name for layer in follow(model, X).layers] == ["a", "b", "head"]


@pytest.mark.parametrize(
    "name", ["resnet20", "mobilenet_v2", "shufflenet_v2_x1_0", "convnext_tiny", "swin_t"]
)
def test_the_graph_of_a_network_is_that_of_torch_export(name: str) -> None:
    both_ways(models.build(name), models.example_input(name))


def test_the_quick_answers_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes, types and order in memory: asked for again at every operator."""
    asked = []

    def checked(func: Any) -> Callable[..., Tensor | None]:
        def answer(*args: Any) -> Tensor | None:
            found = quick.ANSWERS[func](*args)
            if found is not None:
                wanted = func(*args)
                asked.append(func)
                assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype), func
                assert found.is_contiguous() == wanted.is_contiguous(), func
            return found

        return answer

    monkeypatch.setattr(recorder, "ANSWERS", {func: checked(func) for func in quick.ANSWERS})
    for name in ("mobilenet_v3_large", "densenet121", "convnext_tiny", "swin_t"):
        recorder.record(models.build(name), Call.of(models.example_input(name)))
    layers = [nn.Conv2d(3, 8, 3, (2, 1), 1, 2), nn.BatchNorm2d(8), nn.InstanceNorm2d(8)]
    layers += [nn.LeakyReLU(), nn.Sigmoid(), nn.ELU(), nn.Mish(), nn.Tanh(), nn.Hardsigmoid()]
    recorder.record(nn.Sequential(*layers), Call.of(X))
    assert len(set(asked)) > 18


def read(value: Callable[[Tensor], Any]) -> Callable[[nn.Module, Tensor], Tensor]:
    """A forward that lets a number of a tensor decide."""
    return lambda n, x: n.a(x).relu() if value(x) else n.a(x)


def caught(net: nn.Module, x: Tensor) -> Tensor:
    try:
        return net.a(x) * float(x.sum())
    except Exception:  # of whatever kind the recorder has
        return net.a(x)


UNSURE: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "bool": read(lambda x: x.sum() > 0),
    "item": read(lambda x: x.sum().item() > 0),
    "float": read(lambda x: float(x.sum()) > 0),
    "list": read(lambda x: x.tolist()[0]),
    "numpy": read(lambda x: x.detach().numpy().any()),
    "equal": read(lambda x: torch.equal(x, x)),
    "allclose": read(lambda x: torch.allclose(x, x)),
    "contained": read(lambda x: 0.5 in x),
    "nonzero": lambda n, x: n.a(x) * len(x.nonzero()),
    "masked": lambda n, x: n.a(x) * x[x > 0].shape[0],
    "unique": lambda n, x: n.a(x) * len(x.unique()),
    "new_tensor": lambda n, x: n.a(x) + x.new_tensor([2.0]),
    "error caught": caught,
    "function of jit": lambda n, x: scripted(n.a(x)),
    "types mixed": lambda n, x: F.conv2d(x, n.a.weight.double()),
    "turned in place": lambda n, x: n.a(x).transpose_(1, 3).transpose(1, 3),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSURE)
def test_what_reads_numbers_is_left_to_torch_export(name: str) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011 - of any kind, by its contract
        recorder.record(Net(UNSURE[name], 4, a=conv(3, 4)), Call.of(X))


def test_what_the_recorder_is_unsure_of_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsure(*_: object) -> None:
        raise recorder.UnsureError("as if")

    model = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 5))
    wanted = plain(follow(model, X))
    monkeypatch.setattr(assemble, "record", unsure)
    assert plain(follow(model, X)) == wanted


class Keeper(nn.Module):
    """Keeps what it computes in every place it has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.cache, self.last, self.runs = conv(3, 4), {}, torch.zeros(1), 0
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.cache["x"] = self.last = y = self.conv(x) + torch.rand(1)
        self.seen += 1
        self.runs += 1
        return y if self.training else y.relu()


def test_recording_leaves_the_network_and_the_generator_alone() -> None:
    model = nn.Sequential(Keeper(), conv(4, 2)).train()
    last, called = model[0].last, nn.Module.__call__
    before, state = plain(dict(model.state_dict())), torch.get_rng_state()
    program = recorder.record(model, Call.of(X))
    assert [step.op for step in program.steps].count("relu") == 1
    assert model[0].cache == {}
    assert model[0].last is last
    assert model[0].runs == 0
    assert all(module.training for module in model.modules())
    assert plain(dict(model.state_dict())) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert nn.Module.__call__ is called
