"""Networks of several inputs, of keywords and of ids: traced, cut, masked, saved and loaded."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems_networks import Part, agrees
from torch import Tensor, nn

from dsa_core.budget import Cost
from dsa_core.errors import TraceError
from dsa_core.example import Call
from dsa_core.masks import masked_call
from dsa_core.surgery import prune, try_forward
from dsa_core.surgery.verify import count_macs, distance, random_channels, together
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
        return SimpleNamespace(loss=loss, logits=logits) if return_dict else (logits,)


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


@pytest.mark.parametrize("name", CALLS)
def test_any_call_is_traced_cut_masked_saved_and_loaded(name: str) -> None:
    torch.manual_seed(0)
    build, give, groups = CALLS[name]
    model, example = build().double().eval(), give(2)
    graph, one = trace(model, example), trace(model, give(1))
    assert {g.name: g.size for g in graph.prunable} == groups
    assert graph.outputs == model.head.out_features
    assert graph.input_shape == tuple(Call.of(example).first_tensor.shape)
    assert [layer.coefficient for layer in one.layers] == [x.coefficient for x in graph.layers]
    agrees(model, graph, example, files=True)
    keep = random_channels(graph, 0.5, seed=1)
    with torch.no_grad():
        called = together(masked_call(model, graph, keep.double(), example))
    found = together(try_forward(prune(model, graph, keep), example))
    assert distance(called, found) < 1e-10


def test_a_shared_mask_needs_a_batch_of_one() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    mask = torch.zeros(5, 5)
    graph = trace(layer, (torch.randn(1, 5, 8), mask))
    assert {g.name: g.size for g in graph.prunable} == {"self_attn": 2, "linear1": 16}
    assert Cost.of(graph, "macs").dense == count_macs(layer.eval(), (torch.randn(1, 5, 8), mask))
    with pytest.raises(TraceError, match=r"args\[0\] is 2 long, that of args\[1\] 5.*batch of one"):
        trace(layer, (torch.randn(2, 5, 8), mask))


def test_outputs_without_a_tensor_are_refused() -> None:
    silent = Part(lambda m, x: str(m.fc(x).shape), fc=nn.Linear(4, 4))
    with pytest.raises(TraceError, match="Part returns a str that holds no tensor"):
        trace(silent, torch.randn(2, 4))


def test_what_leaves_in_an_object_stays() -> None:
    """The network returns its features too, in an object that torch does not know."""

    def both(m: nn.Module, x: Tensor) -> SimpleNamespace:
        x = m.a(x)
        return SimpleNamespace(x=x, y=m.c(m.b(x).relu()))

    model = Part(both, a=nn.Linear(4, 6), b=nn.Linear(6, 5), c=nn.Linear(5, 3))
    graph = trace(model, torch.randn(2, 4))
    assert [g.name for g in graph.prunable] == ["b"]
    assert graph.frozen == {"network output": 9}
