"""Networks with single weights removed: zeros that stay, files that are exact or refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dsa_core.channels import ChannelGraph
from dsa_core.errors import SurgeryError
from dsa_core.lab import models
from dsa_core.surgery import sparse as sparse_module
from dsa_core.surgery.files import describe, digest
from dsa_core.surgery.sparse import held_zeros, load_sparse, save_sparse, zero_weights
from dsa_core.tracing import trace


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return models.build("resnet8").eval()


def masks_of(model: nn.Module, share: float = 0.3, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    named = {n: p for n, p in model.named_parameters() if p.ndim > 1}
    return {n: torch.rand(p.shape, generator=generator) < share for n, p in named.items()}


def graph_of(model: nn.Module) -> ChannelGraph:
    return trace(model, torch.zeros(1, 1, 8, 8))


def saved(folder: Path) -> tuple[nn.Module, dict[str, Tensor]]:
    model = network()
    masks = masks_of(model)
    sparse = zero_weights(model, masks)
    save_sparse(folder, sparse, graph_of(model), masks, name="resnet8")
    return sparse, masks


def test_zeros_are_set_in_a_copy():
    model, whole = network(), network()
    masks = masks_of(model)
    sparse = dict(zero_weights(model, masks).named_parameters())
    for name, p in whole.named_parameters():
        assert torch.equal(dict(model.named_parameters())[name], p)
        assert torch.equal(sparse[name], p * masks[name] if name in masks else p)


@pytest.mark.parametrize("nesterov", [False, True])
def test_zeros_are_held_through_momentum_and_decay(nesterov):
    masks = masks_of(network())
    model, plain = zero_weights(network(), masks), zero_weights(network(), masks)
    x, first = torch.randn(4, 1, 8, 8), {n: p.clone() for n, p in model.named_parameters()}

    def steps(model: nn.Module) -> None:
        sgd = torch.optim.SGD(
            model.parameters(), lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.01
        )
        for _ in range(3):
            sgd.zero_grad()
            model(x).square().sum().backward()
            sgd.step()

    with held_zeros(model, masks):
        steps(model)
    for name, p in model.named_parameters():
        if name in masks:
            assert not bool(p[~masks[name]].any())
        assert bool((p != first[name]).any())  # the others have moved
    steps(model)  # after the block nothing is held
    assert any(bool(p[~masks[n]].any()) for n, p in model.named_parameters() if n in masks)
    steps(plain)
    assert any(bool(p[~masks[n]].any()) for n, p in plain.named_parameters() if n in masks)


def test_no_hook_is_left_behind_by_an_error():
    model = network()
    with pytest.raises(RuntimeError, match="stop"), held_zeros(model, masks_of(model)):
        raise RuntimeError("stop")
    assert not any(p._backward_hooks for p in model.parameters())


def test_masks_that_do_not_fit_are_named():
    model = network()
    masks = masks_of(model)
    with pytest.raises(SurgeryError, match=r"'conv9.weight'.*no such parameter"):
        zero_weights(model, {"conv9.weight": masks["conv1.weight"]})
    with pytest.raises(SurgeryError, match=r"'conv1.weight'.*float32"):
        zero_weights(model, {"conv1.weight": masks["conv1.weight"].float()})
    with pytest.raises(SurgeryError, match=r"\(3, 3\); the network has \(16, 1, 3, 3\)"):
        zero_weights(model, {"conv1.weight": torch.ones(3, 3, dtype=torch.bool)})
    with pytest.raises(SurgeryError, match=r"conv1.weight would keep none of its 144"):
        zero_weights(model, {"conv1.weight": masks["conv1.weight"] & False})


def test_saved_and_loaded_is_equal_to_the_bit(tmp_path):
    sparse, masks = saved(tmp_path)
    for given in (None, network(seed=5)):
        loaded = load_sparse(tmp_path, given)
        assert not loaded.training
        assert loaded.state_dict().keys() == sparse.state_dict().keys()
        for key, value in loaded.state_dict().items():
            assert torch.equal(value, sparse.state_dict()[key]), key
    tensors = load_file(tmp_path / "sparse.safetensors")
    for name, mask in masks.items():
        assert tensors[name + ".indices"].tolist() == mask.flatten().nonzero()[:, 0].tolist()
        assert name not in tensors
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(load_sparse(tmp_path)(x), sparse(x), rtol=0, atol=0)


def test_the_file_is_smaller_below_half_of_the_weights(tmp_path):
    model, sizes = network(), {}
    save_file(model.state_dict(), tmp_path / "dense")
    for share in (0.1, 0.9):
        masks = masks_of(model, share)
        save_sparse(tmp_path, zero_weights(model, masks), graph_of(model), masks, name="resnet8")
        sizes[share] = (tmp_path / "sparse.safetensors").stat().st_size
    dense = (tmp_path / "dense").stat().st_size
    assert sizes[0.1] < 0.3 * dense
    assert sizes[0.9] > dense  # as the documentation says


def test_a_dropped_weight_that_is_not_zero_is_refused(tmp_path):
    model = network()
    masks = masks_of(model)
    with pytest.raises(SurgeryError, match=r"conv1.weight: \d+ dropped weights are not zero"):
        save_sparse(tmp_path, model, graph_of(model), masks, name="resnet8")
    assert not list(tmp_path.iterdir())


def test_changed_tensors_are_named(tmp_path):
    saved(tmp_path)
    path = tmp_path / "sparse.safetensors"
    tensors = load_file(path)
    spoilt = tensors["conv1.weight.values"].clone()
    spoilt[0] += 1
    save_file(tensors | {"conv1.weight.values": spoilt}, path)
    with pytest.raises(
        SurgeryError, match=r"'conv1\.weight\.values' does not match its description"
    ):
        load_sparse(tmp_path)
    save_file({k: v for k, v in tensors.items() if k != "conv1.weight.indices"}, path)
    with pytest.raises(SurgeryError, match=r"'conv1\.weight\.indices' is in only one of"):
        load_sparse(tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SurgeryError, match="cannot be read"):
        load_sparse(tmp_path)
    path.unlink()
    with pytest.raises(SurgeryError, match="cannot be read"):
        load_sparse(tmp_path)


def forge(folder: Path, facts: dict, tensors: dict[str, Tensor]) -> None:
    """Write both files with digests that fit."""
    save_file(tensors, folder / "sparse.safetensors")
    facts["tensors"] = {k: describe(v) for k, v in tensors.items()}
    facts["sha256"] = {k: digest(v) for k, v in facts.items() if k != "sha256"}
    (folder / "sparse.json").write_text(json.dumps(facts))


@pytest.mark.parametrize("fault", ["order", "outside", "negative", "fewer", "axes", "absent"])
def test_indices_that_make_no_sense_are_refused(tmp_path, fault):
    """Whoever writes digests that fit can still not write outside a tensor."""
    saved(tmp_path)
    facts = json.loads((tmp_path / "sparse.json").read_text())
    tensors = load_file(tmp_path / "sparse.safetensors")
    key = "conv1.weight.indices"
    places = tensors.pop(key)
    last = len(places) - 1
    if fault == "order":
        places = places.flip(0)
    elif fault == "outside":
        places[last] = 144
    elif fault == "negative":
        places[0] = -1
    elif fault == "fewer":
        places = places[1:]
    elif fault == "axes":
        places = places[:, None]
    if fault != "absent":
        tensors[key] = places.contiguous()
    forge(tmp_path, facts, tensors)
    with pytest.raises(SurgeryError, match=r"'conv1\.weight\.indices'"):
        load_sparse(tmp_path)


@pytest.mark.parametrize("shape", [[1, 16, 3, 3], [60_000, 2_000], None])
def test_a_weight_that_the_network_does_not_have_takes_no_memory(tmp_path, shape, monkeypatch):
    saved(tmp_path)
    monkeypatch.setattr(sparse_module, "unpacked", lambda *_: pytest.fail("memory was taken"))
    facts = json.loads((tmp_path / "sparse.json").read_text())
    tensors = load_file(tmp_path / "sparse.safetensors")
    if shape is None:
        tensors["conv1.weight.values"] = tensors["conv1.weight.values"].to(torch.complex64)
    facts["shapes"]["conv1.weight"] = shape or [16, 1, 3, 3]
    forge(tmp_path, facts, tensors)
    with pytest.raises(
        SurgeryError, match=r"'conv1\.weight': the network needs \(16, 1, 3, 3\) real"
    ):
        load_sparse(tmp_path)


def test_another_network_is_refused(tmp_path):
    saved(tmp_path)
    with pytest.raises(
        SurgeryError, match=r"entry 'conv1\.weight': the network needs \(16, 3, 3, 3\)"
    ):
        load_sparse(tmp_path, models.build("resnet20"))
