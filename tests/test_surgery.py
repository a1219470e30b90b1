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
from problems_networks import TOYS, Toy, chain, conv
from torch import Tensor, nn

from dsa_core.budget import Cost
from dsa_core.channels import ChannelGraph, follow
from dsa_core.errors import SurgeryError
from dsa_core.lab import models
from dsa_core.masks import masked, masked_call
from dsa_core.surgery import load, prune, save, try_forward
from dsa_core.surgery.verify import count_macs, random_channels, randomise
from dsa_core.tracing import trace

IDS = [toy.name for toy in TOYS]
TIGHT = {"rtol": 1e-10, "atol": 1e-10}  # float64, some dozens of roundings


@cache
def traced_once(build: Toy, seed: int) -> tuple[nn.Module, ChannelGraph]:
    torch.manual_seed(seed)
    model = build.build().double()
    graph = trace(model, torch.randn(2, *build.shape, dtype=torch.float64))
    randomise(model)
    return model.eval(), graph


def prepared(build: Toy, seed: int = 0) -> tuple[nn.Module, ChannelGraph, Tensor]:
    """A toy in float64 with random statistics, its graph, and an input; traced once."""
    model, graph = traced_once(build, seed)
    return copy.deepcopy(model), graph, torch.randn(3, *build.shape, dtype=torch.float64)


def counts_of(graph: ChannelGraph, keep: Tensor) -> Tensor:
    return torch.stack([keep[g.start : g.start + g.size].sum() for g in graph.prunable])


def cut_like(graph: ChannelGraph, name: str, tensor: Tensor, keep: Tensor) -> Tensor:
    """The entries of a dense tensor that survive the cut."""
    for axis, channels in graph.axes.get(name, {}).items():
        stays = torch.tensor([c < 0 or bool(keep[c]) for c in channels.tolist()])
        tensor = tensor.index_select(axis, stays.nonzero()[:, 0])
    return tensor


@pytest.mark.parametrize("ratio", [0.4, 0.7])
@pytest.mark.parametrize("toy", TOYS, ids=IDS)
def test_masked_equals_pruned(toy: Toy, ratio: float) -> None:
    model, graph, x = prepared(toy)
    keep = random_channels(graph, ratio, seed=int(10 * ratio))
    pruned = prune(model, graph, keep)
    with torch.no_grad(), masked(model, graph, keep.double()):
        wanted = model(x)
    torch.testing.assert_close(try_forward(pruned, x), wanted, **TIGHT)
    assert not torch.equal(model(x), wanted)
    counts = counts_of(graph, keep)
    assert Cost.of(graph, "macs").at(counts) == count_macs(pruned, x)
    assert Cost.of(graph, "params").at(counts) == sum(p.numel() for p in pruned.parameters())
    assert Cost.of(graph, "macs").dense == count_macs(model, x)
    assert Cost.of(graph, "params").dense == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("toy", TOYS, ids=IDS)
def test_gradients_of_kept_weights_agree_in_training_mode(toy: Toy) -> None:
    model, graph, x = prepared(toy)
    keep = random_channels(graph, 0.5, seed=1)
    pruned = prune(model, graph, keep).train()
    model.train()
    out = masked_call(model, graph, keep.double(), x)
    weights = torch.randn_like(out)
    (out * weights).sum().backward()
    (pruned(x) * weights).sum().backward()
    dense = dict(model.named_parameters())
    for name, parameter in pruned.named_parameters():
        gradient = dense[name].grad
        assert (gradient is None) == (parameter.grad is None), name
        if gradient is not None:
            kept = cut_like(graph, name, gradient, keep)
            torch.testing.assert_close(parameter.grad, kept, **TIGHT, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("toy", TOYS, ids=IDS)
def test_training_leaves_the_statistics_of_kept_channels_equal(toy: Toy) -> None:
    model, graph, x = prepared(toy)
    keep = random_channels(graph, 0.5, seed=2)
    pruned = prune(model, graph, keep).train()
    model.train()
    masked_call(model, graph, keep.double(), x)
    pruned(x)
    dense = dict(model.named_buffers())
    for name, buffer in pruned.named_buffers():
        kept = cut_like(graph, name, dense[name], keep)
        torch.testing.assert_close(buffer, kept, **TIGHT)


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


def test_an_empty_group_is_refused_and_nothing_changes() -> None:
    model, graph, _ = prepared(TOYS[0])
    before = copy.deepcopy(model.state_dict())
    keep = torch.ones(graph.n_channels, dtype=torch.bool)
    keep[:6] = False
    given = keep.clone()
    with pytest.raises(SurgeryError, match=r"a\.0 would keep none"):
        prune(model, graph, keep)
    torch.testing.assert_close(keep, given, rtol=0, atol=0)
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


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


def test_the_wrong_network_for_a_graph_is_named() -> None:
    _, graph, _ = prepared(TOYS[0])
    other = chain(8, a=nn.Sequential(conv(3, 5), nn.BatchNorm2d(5), nn.ReLU()), b=conv(5, 8))
    with pytest.raises(SurgeryError, match=r"'a\.0\.weight': the graph has \(6, 3, 3, 3\)"):
        prune(other, graph, torch.ones(graph.n_channels, dtype=torch.bool))
    extra = TOYS[0].build()
    extra.add_module("more", nn.Linear(2, 2))
    with pytest.raises(SurgeryError, match=r"'more\.weight': the graph has none"):
        prune(extra, graph, torch.ones(graph.n_channels, dtype=torch.bool))


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


def saved(folder: Path) -> tuple[nn.Module, nn.Module, Tensor]:
    """A small network, pruned and saved: (dense, pruned, input)."""
    model, graph, x = prepared(Toy("resnet8", lambda: models.build("resnet8"), {}, (), (1, 8, 8)))
    keep = random_channels(graph, 0.5, seed=3)
    pruned = prune(model, graph, keep)
    save(folder, pruned, graph, keep, name="resnet8")
    return model, pruned, x


def test_saved_and_loaded_is_equal_to_the_bit(tmp_path: Path) -> None:
    model, pruned, x = saved(tmp_path / "new" / "folder")
    for again in (load(tmp_path / "new" / "folder"), load(tmp_path / "new" / "folder", model)):
        torch.testing.assert_close(try_forward(again, x), try_forward(pruned, x), rtol=0, atol=0)
        for key, value in pruned.state_dict().items():
            assert again.state_dict()[key].dtype == value.dtype
            torch.testing.assert_close(again.state_dict()[key], value, rtol=0, atol=0)
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == [
        "architecture.json",
        "model.safetensors",
    ]


def test_loading_does_not_unpickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, _ = saved(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    load(tmp_path, model)


def test_files_that_are_missing_or_cut_short(tmp_path: Path) -> None:
    model, _, _ = saved(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(SurgeryError, match=r"model\.safetensors: cannot be read"):
        load(tmp_path, model)
    (tmp_path / "architecture.json").unlink()
    with pytest.raises(SurgeryError, match=r"architecture\.json: cannot be read"):
        load(tmp_path, model)


def test_files_of_another_network_name_the_entry(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(SurgeryError, match="entry 'groups': network and file differ"):
        load(tmp_path, nn.Sequential(conv(1, 4), nn.Flatten(), nn.Linear(256, 3)))
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
    model, pruned, x = saved(tmp_path)
    path = tmp_path / "architecture.json"
    found = json.loads(path.read_text())
    for entry in ("example", "earlier"):
        del found[entry], found["sha256"][entry]
    path.write_text(json.dumps(found))
    again = load(tmp_path, model)
    torch.testing.assert_close(try_forward(again, x), try_forward(pruned, x), rtol=0, atol=0)


def cut_and_save(folder: Path, model: nn.Module, x: Tensor, seed: int) -> nn.Module:
    """Trace, cut at random, copy as a fine-tuning would, and save."""
    graph = trace(model, x)
    keep = random_channels(graph, 0.6, seed)
    pruned = copy.deepcopy(prune(model, graph, keep))
    save(folder, pruned, graph, keep, name="resnet8")
    return pruned


def test_a_network_cut_again_and_again_loads_from_the_last_folder_alone(tmp_path: Path) -> None:
    model, x = models.build("resnet8").eval(), torch.randn(2, 1, 8, 8)
    randomise(model)
    for seed in range(3):
        pruned = cut_and_save(tmp_path / str(seed), model, x, seed)
        again = load(tmp_path / str(seed))
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

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.fc, self.head, self.gate = nn.Linear(4, 6), nn.Linear(6, num_classes), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x).relu()
        return self.head(x) * self.gate(x).sigmoid()


def test_classes_are_those_of_the_output_not_of_the_last_layer(tmp_path: Path) -> None:
    model, x = Gated(7), torch.randn(2, 4)
    graph = trace(model, x)
    assert (graph.outputs, graph.layers[-1].name) == (7, "gate")
    keep = random_channels(graph, 0.5, seed=0)
    pruned = prune(model, graph, keep)
    save(tmp_path, pruned, graph, keep, name="Gated")
    found = json.loads((tmp_path / "architecture.json").read_text())
    assert found["num_classes"] == 7
    torch.testing.assert_close(try_forward(load(tmp_path, model), x), try_forward(pruned, x))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda keep: SimpleNamespace(keep=keep), r"the SimpleNamespace itself: pass its \.keep"),
        (lambda keep: keep.float(), r"torch\.float32 of shape .* pass mask > 0\.5"),
        (lambda keep: keep.tolist(), r"a list: torch\.as_tensor\(keep, dtype=torch\.bool\)"),
        (lambda keep: keep.numpy(), r"a ndarray: torch\.as_tensor"),
        (lambda keep: torch.tensor([3, 4]), "torch.int64 of shape .*for counts.*top_channels"),
        (lambda keep: keep[:-1], r"have the shape \(\d+,\)"),
    ],
)
def test_what_is_given_for_keep_is_named_with_the_remedy(given: Any, words: str) -> None:
    model, graph, _ = prepared(TOYS[0])
    keep = torch.ones(graph.n_channels, dtype=torch.bool)
    with pytest.raises(SurgeryError, match=f"keep must .*{words}"):
        prune(model, graph, given(keep))


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, graph, _ = prepared(TOYS[0])
    keep = random_channels(graph, 0.5, seed=0)
    save(tmp_path, prune(model, graph, keep), graph, keep, name="toy")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    keep = random_channels(graph, 0.9, seed=1)
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path, prune(model, graph, keep), graph, keep, name="toy")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
