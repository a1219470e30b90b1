"""Traces that fail say what is wrong and what to do; nothing of the network is changed by it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems_networks import TOYS, Net, Part, agrees, conv
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from dsa_core.budget import Cost
from dsa_core.channels import check_fits
from dsa_core.channels.assemble import interpret
from dsa_core.errors import SurgeryError, TraceError
from dsa_core.lab import models
from dsa_core.surgery import prune as cut
from dsa_core.surgery.verify import count_macs, random_channels
from dsa_core.tracing import trace

X = torch.randn(2, 3, 8, 8)
Forward = Callable[[nn.Module, Tensor], Tensor]


def network(function: Forward) -> nn.Module:
    def counting(part: nn.Module, x: Tensor) -> Tensor:
        part.calls += 1
        return function(part, x)

    net = nn.Sequential()
    net.add_module("stem", conv(3, 4))
    net.add_module("before", Part(lambda part, x: x))  # of the class that stops, and not to blame
    net.add_module("part", Part(counting, calls=torch.zeros(())))
    net.add_module("drop", nn.Dropout())
    return net


def own_raise(part: nn.Module, x: Tensor) -> Tensor:
    raise ValueError("no such thing")


FORWARDS: dict[str, tuple[Forward, str]] = {
    "missing module": (lambda p, x: p.norm(x), "AttributeError: 'Part' object has no .*'norm'"),
    "missing key": (lambda p, x: x + torch.rand_like(x) + {}["k"], "KeyError: 'k'"),
    "wrong shape": (lambda p, x: x + torch.zeros(5), "RuntimeError: The size of tensor a"),
    "own error": (own_raise, "ValueError: no such thing"),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_an_error_of_the_forward_is_told_as_its_own(name: str) -> None:
    function, words = FORWARDS[name]
    model, state = network(function), torch.get_rng_state()
    with pytest.raises(TraceError, match=words) as caught:
        trace(model, X)
    told = str(caught.value)
    assert told.startswith("the forward itself raises on this example, in part (Part, test_trace_")
    assert "branch" not in told
    assert float(model.part.calls) == 0
    assert torch.equal(torch.get_rng_state(), state)


EXPORTS: dict[str, tuple[Forward, bool]] = {
    "branch": (lambda p, x: x if x.sum() > 0 else -x, True),
    "item": (lambda p, x: x if x.sum().item() > 0 else -x, True),
    "slice": (lambda p, x: x[:, : 1 + int(x.sum() * 0)], True),
    "numpy": (lambda p, x: x * float(x.detach().numpy().sum()), True),
    "anything else": (lambda p, x: real_only(x), False),
}


def real_only(x: Tensor) -> Tensor:
    if type(x) is not Tensor or x.is_meta:
        raise NotImplementedError("only real tensors here")
    return x


@pytest.mark.parametrize("name", EXPORTS)
def test_what_runs_but_cannot_be_exported_is_told_apart(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    function, dependent = EXPORTS[name]
    model = network(function).train()
    model.stem.eval()
    state = torch.get_rng_state()
    told = r"runs, but .*stopped in part \(Part, test_trace"
    with pytest.raises(TraceError, match=told) as caught:
        trace(model, X)
    assert ("a branch on the values" in str(caught.value)) == dependent
    assert "def forward" not in "".join(capfd.readouterr())
    assert float(model.part.calls) == 0
    assert [m.training for m in model] == [False, True, True, True]
    assert torch.equal(torch.get_rng_state(), state)
    assert not model._forward_hooks


@pytest.mark.parametrize(
    ("example", "words"),
    [
        (X.double(), r"args\[0\] \(2, 3, 8, 8\) float64 on cpu, the network is float32 on cpu"),
        (X.to("meta"), r"example is on meta, the network on cpu.*the same device"),
        (X[:, :2], "give an example of the right shape"),
        ((X, X), r"forward\(\) takes 2 positional arguments|positional argument"),
        ({"image": X}, "unexpected keyword argument 'image'"),
        (X[0], r"looks like one image \(or signal\) without a batch axis; give it one, x\[None\]"),
    ],
)  # fmt: skip
def test_an_example_that_does_not_fit(example: Any, words: str) -> None:
    with pytest.raises(TraceError, match=words):
        trace(nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 5)), example)


def test_a_signal_without_its_batch_before_a_linear_layer() -> None:
    """The linear layer alone would have been found, and the convolution have cost nothing."""
    model = nn.Sequential(nn.Conv1d(2, 6, 3), nn.Flatten(0), nn.Linear(60, 8), nn.Linear(8, 3))
    with pytest.raises(TraceError, match=r"0 reads \(2, 12\).*x\[None\]"):
        trace(model, torch.randn(2, 12))


@pytest.mark.parametrize("model", [models.build, "resnet20", X, {"weight": X}])
def test_what_is_no_network(model: Any) -> None:
    with pytest.raises(TraceError, match=r"model must be a torch\.nn\.Module, got"):
        trace(model, X)


@pytest.mark.parametrize(
    "compiled", [torch.jit.script, lambda part: torch.jit.trace(part, torch.randn(1, 4, 8, 8))]
)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_submodules_of_jit_are_refused_by_name(compiled: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(conv(3, 4), nn.Sequential(compiled(conv(4, 4))), conv(4, 2))
    with pytest.raises(TraceError, match=r"^1\.0 \(.*compiled by torch\.jit.*before torch\.jit"):
        trace(model, X)


def test_lazy_parameters_are_refused_and_stay_lazy() -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3))
    with pytest.raises(TraceError, match=r"0 \(LazyConv2d\).*run the network once"):
        trace(model, X)
    assert isinstance(model[0].weight, nn.parameter.UninitializedParameter)


NORMS = {
    "weight_norm": parametrizations.weight_norm,
    "old weight_norm": nn.utils.weight_norm,
    "mask": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "two masks": lambda layer: prune.random_structured(NORMS["mask"](layer), "weight", 0.5, dim=0),
    "masked bias": lambda layer: prune.l1_unstructured(layer, "bias", 0.5),
    "spectral_norm": parametrizations.spectral_norm,
    "old spectral_norm": nn.utils.spectral_norm,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", NORMS)
def test_computed_weights_are_cut_at_their_sources(name: str) -> None:
    """A spectral norm sees rows that a mask does not: its own outputs stay."""
    model = nn.Sequential(conv(3, 4), nn.ReLU(), NORMS[name](conv(4, 6)), nn.ReLU(), conv(6, 2))
    graph = trace(model, X)
    assert [g.name for g in graph.prunable] == (["0"] if "spectral" in name else ["0", "2"])
    assert ("remove_parametrizations" in graph.report()) == (name == "spectral_norm")
    assert model(X).requires_grad
    assert count_macs(cut(model, graph, random_channels(graph, 0.5, 0)).eval(), X)


class LowRank(nn.Module):
    """W + B A, as in LoRA."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.b, self.a = nn.Parameter(torch.rand(rows, 2)), nn.Parameter(torch.rand(2, columns))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a


@pytest.mark.parametrize("batch", [1, 2])
def test_a_weight_computed_by_a_product_is_counted_and_stays(batch: int) -> None:
    model = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 8), nn.Linear(8, 6),
                          nn.Tanh(), nn.Linear(6, 2))  # fmt: skip
    parametrize.register_parametrization(model[3], "weight", LowRank(6, 8))
    x = torch.rand(batch, 4)
    graph = trace(model, x)
    assert [g.name for g in graph.prunable] == ["0"]
    assert "8 channels stay: linear layer with a computed weight (3)" in graph.report()
    agrees(model, graph, x)


@pytest.mark.parametrize(
    ("equation", "operands"),
    [("bcii->bci", 1), ("bchw,bchw", 2), ("b...w,b...w->b...", 2),
     (" b c h w , b d h w -> b c d ", 2), ("bchw,bdhw,behw->bcde", 3), ("...,...->...", 2)],
)  # fmt: skip
def test_einsum_of_every_form_is_frozen_and_counted(equation: str, operands: int) -> None:
    def contract(n: nn.Module, x: Tensor) -> Tensor:
        y = n.a(x)
        return n.b(x).mean((2, 3)) * torch.einsum(equation, *[y] * operands).sum()

    model = Net(contract, 5, a=conv(3, 6), b=conv(3, 5))
    graph = trace(model, X)
    assert "einsum of activations" in graph.report()
    assert Cost.of(graph, "macs").dense == count_macs(model.eval(), X)


def test_a_rule_that_fails_names_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise IndexError("ouch")

    monkeypatch.setitem(interpret.__globals__["RULES"], "relu", broken)
    with pytest.raises(TraceError, match=r"1: relu is used in a form.*IndexError: ouch.*report"):
        trace(nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 5)), X)


def test_repr_is_short_and_print_is_the_table() -> None:
    graph = trace(models.build("resnet20"), models.example_input("resnet20"))
    assert repr(graph).splitlines() == [
        f"ChannelGraph: 12 prunable groups of {graph.n_channels} channels in all, 22 layers",
        "  channels that stay: 10 (network output 10)",
        "  print(graph) lists the groups",
    ]
    assert len(str(graph).splitlines()) == 14
    assert str(graph).endswith("10 channels stay: network output")
    named = {toy.name: toy for toy in TOYS}
    odd = trace(named["unknown op"].build(), X)
    assert "unknown ops: aten.renorm.default" in repr(odd)
    spare = trace(named["unused module"].build(), X)
    assert "parameters never read: 2" in repr(spare)
    assert "spare.weight" in spare.report()
    assert trace(named["tied modules"].build(), X).unused == ()


def test_a_graph_fits_its_network_and_copies_of_it_only() -> None:
    model = models.build("resnet8")
    graph = trace(model, models.example_input("resnet8"))
    check_fits(model, graph)
    check_fits(copy.deepcopy(model), graph)
    with pytest.raises(SurgeryError, match=r"parameter '.*': the graph has .*, the model none"):
        check_fits(models.build("vgg16_cifar"), graph)
    with pytest.raises(SurgeryError, match="got ChannelGraph"):
        check_fits(graph, model)  # type: ignore[arg-type]
    with pytest.raises(SurgeryError, match=r"graph must be the ChannelGraph .*got Tensor"):
        check_fits(model, torch.ones(3))  # type: ignore[arg-type]
    more = copy.deepcopy(model)
    more.add_module("more", nn.Linear(2, 2))
    with pytest.raises(SurgeryError, match=r"'more\.weight': the graph has none"):
        cut(more, graph, torch.ones(graph.n_channels, dtype=torch.bool))
    wide = copy.deepcopy(model)
    wide.layer1[0].bn1.running_mean = torch.zeros(17)
    with pytest.raises(SurgeryError, match=r"'layer1.0.bn1.running_mean', axis 0: .* has 16"):
        check_fits(wide, graph)
    masked = copy.deepcopy(model)
    prune.l1_unstructured(masked.conv1, "weight", 0.5)
    with pytest.raises(SurgeryError, match=r"'conv1.weight'.*masked or parametrized since"):
        check_fits(masked, graph)
