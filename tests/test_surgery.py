"""Masked == pruned on every toy network, in value and in gradient; files; errors."""

import copy
import json
import pickle
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from problems_networks import TOYS, Toy, conv
from problems_runs import same, save_pruned, save_sparse8
from torch import Tensor, nn

from dsa_core.budget import Cost
from dsa_core.channels import ChannelGraph, follow
from dsa_core.errors import SurgeryError
from dsa_core.lab import models
from dsa_core.masks import masked, masked_call
from dsa_core.surgery import load, prune, save, schema, try_forward
from dsa_core.surgery.verify import count_macs, random_channels, randomise
from dsa_core.tracing import trace

TIGHT = {"rtol": 1e-10, "atol": 1e-10}  # float64, some dozens of roundings
every_toy = pytest.mark.parametrize("toy", TOYS, ids=[toy.name for toy in TOYS])


@cache
def traced_once(toy: Toy) -> tuple[nn.Module, ChannelGraph]:
    torch.manual_seed(0)
    model = toy.build().double()
    graph = trace(model, torch.randn(2, *toy.shape, dtype=torch.float64))
    randomise(model)
    return model.eval(), graph


def prepared(toy: Toy) -> tuple[nn.Module, ChannelGraph, Tensor]:
    """A toy in float64 with random statistics, its graph, and an input; traced once."""
    model, graph = traced_once(toy)
    return copy.deepcopy(model), graph, torch.randn(3, *toy.shape, dtype=torch.float64)


def cut_like(graph: ChannelGraph, name: str, tensor: Tensor, keep: Tensor) -> Tensor:
    """The entries of a dense tensor that survive the cut."""
    for axis, channels in graph.axes.get(name, {}).items():
        stays = torch.tensor([c < 0 or bool(keep[c]) for c in channels.tolist()])
        tensor = tensor.index_select(axis, stays.nonzero()[:, 0])
    return tensor


@pytest.mark.parametrize("ratio", [0.4, 0.7])
@every_toy
def test_masked_equals_pruned(toy: Toy, ratio: float) -> None:
    model, graph, x = prepared(toy)
    keep = random_channels(graph, ratio, seed=int(10 * ratio))
    pruned = prune(model, graph, keep)
    with torch.no_grad(), masked(model, graph, keep.double()):
        wanted = model(x)
    torch.testing.assert_close(try_forward(pruned, x), wanted, **TIGHT)
    assert not torch.equal(model(x), wanted)
    counts = torch.stack([keep[g.start : g.start + g.size].sum() for g in graph.prunable])
    for resource, dense, cut in (
        ("macs", count_macs(model, x), count_macs(pruned, x)),
        ("params", *(sum(p.numel() for p in m.parameters()) for m in (model, pruned))),
    ):
        cost = Cost.of(graph, resource)
        assert (cost.dense, cost.at(counts)) == (dense, cut)


@every_toy
def test_a_step_of_training_agrees_in_gradients_and_statistics(toy: Toy) -> None:
    model, graph, x = prepared(toy)
    keep = random_channels(graph, 0.5, seed=1)
    pruned = prune(model, graph, keep).train()
    out = masked_call(model.train(), graph, keep.double(), x)
    weights = torch.randn_like(out)
    (out * weights).sum().backward()
    (pruned(x) * weights).sum().backward()
    dense, found = (
        {n: p.grad for n, p in m.named_parameters()} | dict(m.named_buffers())
        for m in (model, pruned)
    )
    for name, tensor in found.items():
        wanted = dense[name]
        assert (tensor is None) == (wanted is None), name
        if wanted is not None:
            kept = cut_like(graph, name, wanted, keep)
            torch.testing.assert_close(tensor, kept, **TIGHT, msg=lambda m, n=name: n + m)


def test_modules_know_their_new_sizes() -> None:
    toy = next(t for t in TOYS if t.name == "depthwise")
    model, graph, _ = prepared(toy)
    keep = torch.ones(graph.n_channels, dtype=torch.bool)
    keep[:4] = False  # of the six channels of the first group, that pass both depthwise layers
    pruned = prune(model, graph, keep)
    assert (pruned.a[0].out_channels, pruned.a[1].num_features) == (2, 2)
    assert (pruned.d.in_channels, pruned.d.out_channels, pruned.d.groups) == (2, 2, 2)
    assert (pruned.m.in_channels, pruned.m.out_channels, pruned.m.groups) == (2, 4, 2)
    assert (pruned.p.in_channels, pruned.p.out_channels) == (4, 5)
    assert type(pruned.a) is type(model.a)


def test_tied_weights_stay_tied() -> None:
    model, graph, _ = prepared(next(t for t in TOYS if t.name == "tied modules"))
    pruned = prune(model, graph, random_channels(graph, 0.5, seed=0))
    assert pruned.t1.weight is pruned.t2.weight
    assert pruned.t1.weight.shape[:2] == (3, 3)


def test_pruning_leaves_the_given_network_and_tensors_alone() -> None:
    model, graph, x = prepared(TOYS[1])
    model.train()
    keep = random_channels(graph, 0.5, seed=0)
    before, given = copy.deepcopy(model.state_dict()), keep.clone()
    pruned = prune(model, graph, keep)
    with torch.no_grad():
        for parameter in pruned.parameters():
            parameter.fill_(7.0)
    pruned(x)
    assert model.training
    torch.testing.assert_close(keep, given, rtol=0, atol=0)
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


class HardCoded(nn.Module):
    """Its forward holds the width of the dense network."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, 6 * 8 * 8)


def test_a_width_written_into_forward_is_named_with_its_line() -> None:
    model = nn.Sequential(conv(3, 6))
    model.add_module("flat", HardCoded())
    model.add_module("head", nn.Linear(384, 3))
    x = torch.randn(1, 3, 8, 8)
    assert re.search(r"stay: trial cut: .*flat \(HardCoded, test_s.*:\d+", trace(model, x).report())
    graph = follow(model, x)
    pruned = prune(model, graph, random_channels(graph, 0.5, seed=0)).train()
    with pytest.raises(SurgeryError, match=r"flat \(HardCoded, test_surgery.py:\d+\)"):
        try_forward(pruned, x)
    assert pruned.training


def test_saved_and_loaded_is_equal_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "new" / "folder"
    model, pruned = save_pruned(folder)
    assert sorted(p.name for p in folder.iterdir()) == ["architecture.json", "model.safetensors"]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    x = torch.randn(3, 1, 8, 8).double()
    for again in (load(folder), load(folder, model)):
        same(again, pruned)
        torch.testing.assert_close(try_forward(again, x), try_forward(pruned, x), rtol=0, atol=0)


def test_files_of_another_network_name_the_entry(tmp_path: Path) -> None:
    save_pruned(tmp_path)
    with pytest.raises(SurgeryError, match="entry 'groups': network and file differ"):
        load(tmp_path, nn.Sequential(conv(1, 4), nn.Flatten(), nn.Linear(256, 3)))
    with pytest.raises(SurgeryError, match=r"'layer2.0.conv1' has 8 channels, .* of 32"):
        load(tmp_path, models.resnet((1, 1, 1), (16, 8, 64), in_channels=1))
    with pytest.raises(SurgeryError, match=r"entry 'example'.*is it the dense one that was pruned"):
        load(tmp_path, TOYS[1].build())


def test_a_name_that_nobody_knows_asks_for_the_network(tmp_path: Path) -> None:
    model, graph, _ = prepared(TOYS[0])
    keep = random_channels(graph, 0.5, seed=0)
    save(tmp_path, prune(model, graph, keep), graph, keep, name="toy")
    load(tmp_path, model)
    with pytest.raises(SurgeryError, match=r"names the network 'toy'.*Pass the dense network as"):
        load(tmp_path)


def test_files_of_before_are_read(tmp_path: Path) -> None:
    """They have one input, of which they know the shape, and one cut."""
    model, pruned = save_pruned(tmp_path)
    path = tmp_path / "architecture.json"
    found = json.loads(path.read_text())
    for entry in ("example", "earlier", "remedies"):
        del found[entry], found["sha256"][entry]
    path.write_text(json.dumps(found))
    same(load(tmp_path, model), pruned)


def test_a_network_cut_again_and_again_loads_from_the_last_folder_alone(tmp_path: Path) -> None:
    model, x = models.build("resnet8").eval(), torch.randn(2, 1, 8, 8)
    randomise(model)
    for seed in range(3):
        graph = trace(model, x)
        keep = random_channels(graph, 0.6, seed)
        pruned = copy.deepcopy(prune(model, graph, keep))  # as a fine-tuning would
        again = load(save(tmp_path / str(seed), pruned, graph, keep, name="resnet8"))
        torch.testing.assert_close(try_forward(again, x), try_forward(pruned, x), rtol=0, atol=0)
        model = again if seed else pruned  # a cut of a loaded network, and of one in memory
    assert again.conv1.out_channels < 8
    found = json.loads((tmp_path / "2" / "architecture.json").read_text())
    sizes = [cut["groups"]["conv1"]["size"] for cut in [*found["earlier"], found]]
    assert sizes == [16, 10, 6]


def test_the_graph_and_choice_of_another_cut_are_refused(tmp_path: Path) -> None:
    model, graph, _ = prepared(TOYS[0])
    first, second = (random_channels(graph, 0.5, seed) for seed in (0, 1))
    with pytest.raises(SurgeryError, match="not those that the network was last pruned by"):
        save(tmp_path, prune(model, graph, first), graph, second, name="toy")
    assert not list(tmp_path.iterdir())


class Gated(nn.Module):
    """Its last layer is a gate of width one."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head, self.gate = nn.Linear(4, 6), nn.Linear(6, 7), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x).relu()
        return self.head(x) * self.gate(x).sigmoid()


def test_classes_are_those_of_the_output_not_of_the_last_layer(tmp_path: Path) -> None:
    graph = trace(Gated(), torch.randn(2, 4))
    assert (graph.outputs, graph.layers[-1].name) == (7, "gate")
    keep = random_channels(graph, 0.5, seed=0)
    save(tmp_path, prune(Gated(), graph, keep), graph, keep, name="Gated")
    assert json.loads((tmp_path / "architecture.json").read_text())["num_classes"] == 7


class Tokens(nn.Module):
    """A time without axes first; a vocabulary of today's language models."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.fc = nn.Embedding(128_256, 2), nn.Linear(2, 8)
        self.out, self.head = nn.Linear(8, 2), nn.Linear(2, 128_256)

    def forward(self, time: Tensor, ids: Tensor) -> Tensor:
        x = self.embedding(ids) * time
        return self.head(x + self.out(self.fc(x).relu()))


def sound() -> nn.Module:
    pool = (nn.AdaptiveAvgPool1d(1), nn.Flatten())
    return nn.Sequential(nn.Conv1d(1, 8, 80, 16), nn.ReLU(), nn.Conv1d(8, 4, 3), *pool)


LARGE = {
    "ten seconds of sound": (sound, lambda: torch.randn(1, 1, 160_000)),
    "a large vocabulary": (Tokens, lambda: (torch.tensor(0.5), torch.tensor([[1, 2]]))),
}


@pytest.mark.parametrize("kind", LARGE)
def test_large_networks_are_saved_and_loaded(kind, tmp_path: Path) -> None:
    model, example = (make() for make in LARGE[kind])
    graph = trace(model.eval(), example)
    keep = random_channels(graph, 0.5, seed=0)
    smaller = prune(model, graph, keep)
    same(load(save(tmp_path, smaller, graph, keep, name="resnet8"), model), smaller)
    if graph.outputs > 100_000:
        with pytest.raises(SurgeryError, match="built by name are at most 100000"):
            load(tmp_path)


def test_what_could_not_be_loaded_is_not_written(tmp_path: Path, monkeypatch: Any) -> None:
    model = sound().eval()
    graph = trace(model, torch.randn(1, 1, 16_000))
    keep = random_channels(graph, 0.5, seed=0)
    monkeypatch.setattr(schema, "MAX_ELEMENTS", 15_999)
    with pytest.raises(SurgeryError, match=r"entry example: .* nothing was written"):
        save(tmp_path, prune(model, graph, keep), graph, keep, name="own")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda keep: SimpleNamespace(keep=keep), r"the SimpleNamespace itself: pass its \.keep"),
        (lambda keep: keep.float(), r"torch\.float32 of shape .* pass mask > 0\.5"),
        (lambda keep: keep.tolist(), r"a list: torch\.as_tensor\(keep, dtype=torch\.bool\)"),
        (lambda keep: keep.numpy(), r"a ndarray: torch\.as_tensor"),
        (lambda keep: torch.tensor([3, 4]), "torch.int64 of shape .*for counts.*top_channels"),
        (lambda keep: keep[:-1], r"have the shape \(\d+,\)"),
        (lambda keep: keep & (torch.arange(len(keep)) > 5), r"group a\.0 would keep none of its 6"),
    ],
)
def test_what_is_given_for_keep_is_named_with_the_remedy(given: Any, words: str) -> None:
    model, graph, _ = prepared(TOYS[0])
    keep = torch.ones(graph.n_channels, dtype=torch.bool)
    with pytest.raises(SurgeryError, match=words):
        prune(model, graph, given(keep))


def test_a_failed_write_leaves_the_old_files(tmp_path, monkeypatch) -> None:
    def fail(_: int) -> None:
        raise OSError("disk full")

    save_sparse8(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save_sparse8(tmp_path, 0.9)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
