"""Networks of several inputs, of keywords and of ids: traced, cut, masked, saved and loaded."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsa_core.budget import Cost
from dsa_core.channels import ChannelGraph
from dsa_core.errors import TraceError
from dsa_core.example import Call, tensors_in
from dsa_core.masks import masked, masked_call
from dsa_core.surgery import load, prune, save, try_forward
from dsa_core.surgery.verify import count_macs, distance, random_channels, randomise, together
from dsa_core.tracing import trace


class Several(nn.Module):
    """Images and, if given, a second one, a scale, lists and dicts of tensors, and a switch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 6, 3, padding=1)
        self.c, self.head = nn.Conv2d(6, 8, 3), nn.Linear(8, 4)

    def forward(
        self, x: Any, other: Tensor | None = None, scale: float = 1.0, mode: str = "sum"
    ) -> Tensor:
        if isinstance(x, dict):
            x = x["img"]
        if isinstance(x, list):
            x, other = x
        y = self.a(x) * scale
        if other is not None:
            y = y + self.b(other) if mode == "sum" else y * self.b(other)
        return self.head(self.c(y.relu()).relu().mean((2, 3)))


@dataclass
class Result(OrderedDict):  # type: ignore[type-arg]
    """Like the outputs of Hugging Face: a dataclass that is also an ordered dict."""

    loss: Tensor | None = None
    logits: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("loss", "logits"):
            if getattr(self, name) is not None:
                self[name] = getattr(self, name)


class Words(nn.Module):
    """Like a language model of Hugging Face: keywords in, an object of named fields out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.fc1, self.fc2, self.head = nn.Linear(6, 12), nn.Linear(12, 6), nn.Linear(6, 11)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        x = self.embedding(input_ids)
        x = x + self.fc2(F.gelu(self.fc1(x)))
        if attention_mask is not None:
            x = x * attention_mask[:, :, None]
        logits = self.head(x)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Result(loss, logits) if return_dict else (logits,)


def image(n: int = 2) -> Tensor:
    return torch.randn(n, 3, 8, 8, dtype=torch.float64)


def ids(n: int = 2) -> Tensor:
    return torch.randint(11, (n, 5))


CALLS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Any], dict[str, int]]] = {
    "tuple with None and a number": (Several, lambda n: (image(n), None, 2.0), {"a": 6, "c": 8}),
    "two tensors": (Several, lambda n: (image(n), image(n)), {"a": 6, "c": 8}),
    "a list of tensors": (Several, lambda n: ([image(n), image(n)],), {"a": 6, "c": 8}),
    "a dict as an argument": (Several, lambda n: ({"img": image(n)},), {"a": 6, "c": 8}),
    "keywords": (Several, lambda n: {"x": image(n), "other": image(n)}, {"a": 6, "c": 8}),
    "a pair": (
        Several, lambda n: ((image(n), image(n)), {"mode": "product"}), {"a": 6, "c": 8}),
    "ids": (Words, lambda n: ids(n), {"fc1": 12, "fc2": 6}),
    "keywords of ids": (
        Words, lambda n: {"input_ids": ids(n), "attention_mask": torch.ones(n, 5).double()},
        {"fc1": 12, "fc2": 6}),
    "with labels": (
        Words, lambda n: {"input_ids": ids(n), "labels": ids(n), "attention_mask": None},
        {"fc1": 12, "fc2": 6}),
    "a tuple out": (Words, lambda n: ((ids(n),), {"return_dict": False}), {"fc1": 12, "fc2": 6}),
}  # fmt: skip


def traced(name: str) -> tuple[nn.Module, ChannelGraph, Any, dict[str, int]]:
    torch.manual_seed(0)
    build, example, groups = CALLS[name]
    model = build().double()
    graph = trace(model, example(2))
    randomise(model)
    return model.eval(), graph, example(2), groups


@pytest.mark.parametrize("name", CALLS)
def test_any_call_is_traced_and_masked_equals_pruned(name: str) -> None:
    model, graph, example, groups = traced(name)
    assert {g.name: g.size for g in graph.prunable} == groups
    assert graph.outputs == model.head.out_features
    assert graph.input_shape == tuple(Call.of(example).first_tensor.shape)
    keep = random_channels(graph, 0.5, seed=1)
    pruned = prune(model, graph, keep)
    with torch.no_grad(), masked(model, graph, keep.double()):
        wanted = together(Call.of(example)(model))
    with torch.no_grad():
        called = together(masked_call(model, graph, keep.double(), example))
    assert distance(wanted, together(try_forward(pruned, example))) < 1e-10
    assert distance(wanted, called) < 1e-10
    counts = torch.stack([keep[g.start : g.start + g.size].sum() for g in graph.prunable])
    assert Cost.of(graph, "macs").at(counts) == count_macs(pruned, example)
    assert Cost.of(graph, "macs").dense == count_macs(model, example)


@pytest.mark.parametrize("name", CALLS)
def test_any_call_is_saved_and_loaded(name: str, tmp_path: Path) -> None:
    model, graph, example, _ = traced(name)
    keep = random_channels(graph, 0.5, seed=1)
    pruned = prune(model, graph, keep)
    save(tmp_path, pruned, graph, keep, name=type(model).__name__)
    wanted = together(try_forward(pruned, example))
    again = load(tmp_path, model)
    torch.testing.assert_close(together(try_forward(again, example)), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("name", CALLS)
def test_costs_are_those_of_one_example(name: str) -> None:
    build, example, _ = CALLS[name]
    model = build().double()
    one, three = trace(model, example(1)), trace(model, example(3))
    assert [layer.coefficient for layer in one.layers] == [x.coefficient for x in three.layers]


def test_a_shared_mask_needs_a_batch_of_one() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    mask = torch.zeros(5, 5)
    graph = trace(layer, (torch.randn(1, 5, 8), mask))
    assert {g.name: g.size for g in graph.prunable} == {"self_attn": 2, "linear1": 16}
    assert Cost.of(graph, "macs").dense == count_macs(layer.eval(), (torch.randn(1, 5, 8), mask))
    with pytest.raises(TraceError, match=r"args\[0\] is 2 long, that of args\[1\] 5.*batch of one"):
        trace(layer, (torch.randn(2, 5, 8), mask))


class Silent(nn.Module):
    """Returns nothing that holds a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> str:
        return str(self.fc(x).shape)


def test_outputs_without_a_tensor_are_refused() -> None:
    with pytest.raises(TraceError, match="Silent returns a str that holds no tensor"):
        trace(Silent(), torch.randn(2, 4))


def test_what_leaves_in_an_object_stays() -> None:
    """The network returns its features too, in an object that torch does not know."""

    class Features:
        def __init__(self, x: Tensor, y: Tensor) -> None:
            self.x, self.y = x, y

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Features:
            x = self.a(x)
            return Features(x, self.c(self.b(x).relu()))

    graph = trace(Both(), torch.randn(2, 4))
    assert [g.name for g in graph.prunable] == ["b"]
    assert graph.frozen == {"network output": 9}
    assert len(tensors_in(Both()(torch.randn(2, 4)))) == 2
