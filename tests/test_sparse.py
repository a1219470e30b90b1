"""Networks with single weights removed: zeros that stay, files that are exact or refused."""

import json
from pathlib import Path

import pytest
import torch
from problems_runs import fresh, graph8, same, save_sparse8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dsa_core.errors import SurgeryError
from dsa_core.surgery import sparse as sparse_module
from dsa_core.surgery.files import describe, digest
from dsa_core.surgery.sparse import held_zeros, load_sparse, save_sparse, zero_weights
from dsa_core.tracing import trace


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    return {n: torch.rand_like(p) < 0.3 for n, p in model.named_parameters() if p.ndim > 1}


def test_zeros_are_set_in_a_copy():
    model = fresh()
    masks = masks_of(model)
    sparse = dict(zero_weights(model, masks).named_parameters())
    same(model, fresh())
    for name, p in model.named_parameters():
        assert torch.equal(sparse[name], p * masks[name] if name in masks else p)


@pytest.mark.parametrize("nesterov", [False, True])
def test_zeros_are_held_through_momentum_and_decay(nesterov):
    masks = masks_of(fresh())
    model = zero_weights(fresh(), masks)
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


def test_no_hook_is_left_behind_by_an_error():
    model = fresh()
    with pytest.raises(RuntimeError, match="stop"), held_zeros(model, masks_of(model)):
        raise RuntimeError("stop")
    assert not any(p._backward_hooks for p in model.parameters())


def test_masks_that_do_not_fit_are_named():
    model = fresh()
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
    sparse, masks = save_sparse8(tmp_path)
    for given in (None, fresh(5)):
        loaded = load_sparse(tmp_path, given)
        assert not loaded.training
        same(loaded, sparse)
    tensors = load_file(tmp_path / "sparse.safetensors")
    for name, mask in masks.items():
        assert tensors[name + ".indices"].tolist() == mask.flatten().nonzero()[:, 0].tolist()
        assert name not in tensors


def test_the_file_is_smaller_below_half_of_the_weights(tmp_path):
    path = tmp_path / "sparse.safetensors"
    save_file(fresh().state_dict(), tmp_path / "dense")
    dense = (tmp_path / "dense").stat().st_size
    save_sparse8(tmp_path, 0.1)
    assert path.stat().st_size < 0.3 * dense
    save_sparse8(tmp_path, 0.9)
    assert path.stat().st_size > dense  # as the documentation says


def test_a_dropped_weight_that_is_not_zero_is_refused(tmp_path):
    with pytest.raises(SurgeryError, match=r"conv1.weight: \d+ dropped weights are not zero"):
        save_sparse(tmp_path, fresh(), graph8(), masks_of(fresh()), name="resnet8")
    assert not list(tmp_path.iterdir())


def test_changed_tensors_are_named(tmp_path):
    save_sparse8(tmp_path)
    path = tmp_path / "sparse.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"conv1.weight.values": tensors["conv1.weight.values"] + 1}, path)
    with pytest.raises(SurgeryError, match=r"'conv1\.weight\.values' does not match its descr"):
        load_sparse(tmp_path)
    del tensors["conv1.weight.indices"]
    save_file(tensors, path)
    with pytest.raises(SurgeryError, match=r"'conv1\.weight\.indices' is in only one of"):
        load_sparse(tmp_path)


def forged(folder: Path) -> tuple[dict, dict[str, Tensor]]:
    """What both files of a sparse network say."""
    save_sparse8(folder)
    facts = json.loads((folder / "sparse.json").read_text())
    return facts, load_file(folder / "sparse.safetensors")


def forge(folder: Path, facts: dict, tensors: dict[str, Tensor]) -> None:
    """Write both files with digests that fit."""
    save_file(tensors, folder / "sparse.safetensors")
    facts["tensors"] = {k: describe(v) for k, v in tensors.items()}
    facts["sha256"] = {k: digest(v) for k, v in facts.items() if k != "sha256"}
    (folder / "sparse.json").write_text(json.dumps(facts))


@pytest.mark.parametrize(
    "fault",
    [
        lambda places: places.flip(0),
        lambda places: places.where(places < places[-1], 144),
        lambda places: places.where(places > places[0], -1),
        lambda places: places[1:],
        lambda places: places[:, None],
        None,
    ],
)
def test_indices_that_make_no_sense_are_refused(tmp_path, fault):
    """Whoever writes digests that fit can still not write outside a tensor."""
    facts, tensors = forged(tmp_path)
    places = tensors.pop("conv1.weight.indices")
    if fault is not None:
        tensors["conv1.weight.indices"] = fault(places).contiguous()
    forge(tmp_path, facts, tensors)
    with pytest.raises(SurgeryError, match=r"'conv1\.weight\.indices'"):
        load_sparse(tmp_path)


@pytest.mark.parametrize("shape", [[1, 16, 3, 3], [60_000, 2_000], None])
def test_a_weight_that_the_network_does_not_have_takes_no_memory(tmp_path, shape, monkeypatch):
    monkeypatch.setattr(sparse_module, "unpacked", lambda *_: pytest.fail("memory was taken"))
    facts, tensors = forged(tmp_path)
    if shape is None:
        tensors["conv1.weight.values"] = tensors["conv1.weight.values"].to(torch.complex64)
    facts["shapes"]["conv1.weight"] = shape or [16, 1, 3, 3]
    forge(tmp_path, facts, tensors)
    with pytest.raises(
        SurgeryError, match=r"'conv1\.weight': the network needs \(16, 1, 3, 3\) real"
    ):
        load_sparse(tmp_path)


class Own(nn.Sequential):
    """A network with extra state, in double precision, and a buffer with one of our names."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3))
        self.register_buffer("indices", torch.arange(3))
        self.double()

    def get_extra_state(self) -> dict:
        return {"any": 1}

    def set_extra_state(self, state: dict) -> None:
        pass


def test_a_network_of_ones_own(tmp_path):
    graph, masks = trace(Own(), torch.zeros(1, 1, 8, 8).double()), masks_of(Own())
    sparse = zero_weights(Own(), masks)
    with pytest.warns(UserWarning, match="_extra_state is not written"):
        save_sparse(tmp_path, sparse, graph, masks, name="own")
    loaded = load_sparse(tmp_path, Own().float())
    assert loaded[0].weight.dtype == torch.float64
    same(loaded, sparse)
