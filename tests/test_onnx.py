"""ONNX: the same numbers, any batch, whole files or none."""

import copy
from pathlib import Path

import pytest
import torch
from problems_runs import fresh, graph8, same
from torch import nn

from dsa_core.errors import ConfigError, SurgeryError
from dsa_core.example import Call
from dsa_core.surgery import OnnxNetwork, export_onnx, onnx_file, prune
from dsa_core.surgery.verify import random_channels, randomise

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
INT8 = onnx.TensorProto.INT8


@pytest.fixture(scope="module")
def pruned():
    model = prune(fresh(), graph8(), random_channels(graph8(), 0.6, 1))
    randomise(model)
    return model.eval()


@pytest.fixture(scope="module")
def written(pruned, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "deep" / "net.onnx"
    return export_onnx(pruned, path, torch.randn(4, 1, 8, 8)), path


def test_the_file_computes_what_the_network_does_at_batch_sizes_never_exported(written, pruned):
    check, path = written
    assert check.batches == (1, 3, 4)
    assert check.max_abs_diff < 1e-5
    assert check.megabytes == pytest.approx(path.stat().st_size / 1e6)
    assert [p.name for p in path.parent.iterdir()] == ["net.onnx"]
    x = torch.randn(7, 1, 8, 8)
    with torch.no_grad():
        wanted = pruned(x)
    torch.testing.assert_close(OnnxNetwork(path)(x), wanted, rtol=1e-4, atol=1e-5)
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(path).graph.node}


def test_the_network_is_left_as_it_was_and_a_path_may_be_a_string(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).double().train()
    before = copy.deepcopy(model)
    check = export_onnx(model, f"{tmp_path}/new/deep/x.onnx", torch.randn(2, 1, 5, 5))
    assert check.path == tmp_path / "new" / "deep" / "x.onnx"
    assert check.path.exists()
    assert model.training
    same(model, before)
    with pytest.raises(SurgeryError, match=r"new is a folder: name the file.*net\.onnx"):
        export_onnx(model, str(tmp_path / "new"), torch.randn(2, 1, 5, 5))


def test_a_file_that_differs_is_not_written(pruned, tmp_path, monkeypatch):
    monkeypatch.setattr(OnnxNetwork, "forward", lambda _, x: pruned(x).detach() + 0.1)
    with pytest.raises(SurgeryError, match=r"differs from the network by 0\.1"):
        export_onnx(pruned, tmp_path / "net.onnx", torch.randn(2, 1, 8, 8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("right", "found"),
    [
        ([1.0, 2.0], [float("nan")] * 2),
        ([-float("inf"), 5.0], [-float("inf"), 4.0]),
        ([6e-4, 3e-4], [0.0, 0.0]),
    ],
)
def test_outputs_of_every_size_are_compared(monkeypatch, right, found):
    monkeypatch.setattr(onnx_file, "OnnxNetwork", lambda _: lambda *_: torch.tensor([found]))
    monkeypatch.setattr(onnx_file, "outputs", lambda *_: [torch.tensor([right])])
    network = onnx_file.Flat(nn.Identity(), Call.of(torch.zeros(1, 2)))
    assert onnx_file.compared(Path("x"), b"", network, (1,))[1] > onnx_file.TOLERANCE


class FixedBatch(nn.Module):
    def forward(self, x):
        return x.reshape(2, -1)


class Odd(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvals(x @ x.mT).real


@pytest.mark.parametrize(
    ("network", "words"),
    [(FixedBatch(), "does not take a batch of 1"), (Odd(), "exporter refuses the network")],
)
def test_a_network_that_cannot_be_written_is_refused(network, words, tmp_path):
    with pytest.raises(SurgeryError, match=words):
        export_onnx(network, tmp_path / "net.onnx", torch.randn(2, 3, 3))
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(ConfigError, match=r"no_such_package.*dsa_core\[onnx\]"):
        export_onnx(nn.ReLU(), tmp_path / "net.onnx", torch.randn(2, 3))


def test_what_is_no_onnx_file_is_refused():
    with pytest.raises(SurgeryError, match="refuses the network"):
        OnnxNetwork(b"not a network")


class Pair(nn.Module):
    """Ids, a mask that all examples share, and keywords in; a dict of two out."""

    def __init__(self):
        super().__init__()
        self.embedding, self.fc = nn.Embedding(7, 6), nn.Linear(6, 3)

    def forward(self, ids, shared=None, *, scale=1.0, more=None):
        x = self.embedding(ids) @ self.fc.weight.T
        x = x if shared is None else shared @ x
        return {"sum": x.sum(1) + more["bias"], "all": x * scale}


def test_8_bits_by_output_channel(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()).eval()
    x = torch.randn(64, 1, 8, 8)
    check = export_onnx(model, tmp_path / "net.onnx", x[:4], int8=[x[:32], x[32:]])
    graph = onnx.load(check.path).graph
    assert "QuantizeLinear" in [node.op_type for node in graph.node]
    assert {i.data_type for i in graph.initializer} >= {INT8}
    assert [8] in [list(i.dims) for i in graph.initializer if i.name.endswith("_scale")]
    with torch.no_grad():
        wanted = model(x)
    found = OnnxNetwork(check.path)(x)
    assert 0 < (found - wanted).abs().max() < 0.02 * wanted.abs().max()  # 1 / 128 and the weights'
    with pytest.raises(ConfigError, match="int8: wanted some batches"):
        export_onnx(model, tmp_path / "none.onnx", x[:4], int8=[])
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


class Sum(nn.Module):
    """Two inputs of very different sizes in; the sum and whether it is positive out."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, large, small):
        total = self.fc(large * 100) + small
        return total, total > 0


def test_8_bits_of_inputs_by_their_names(tmp_path):
    model, large, small = Sum(), torch.randn(64, 4), torch.randn(64, 4) / 1000
    example = {"large": large[:2], "small": small[:2]}
    errors = [
        export_onnx(model, tmp_path / "net.onnx", example, int8=[batch]).max_abs_diff
        for batch in ({"large": large, "small": small}, {"small": small, "large": large})
    ]
    assert errors[0] == errors[1]
    with pytest.raises(ConfigError, match=r"int8: wanted batches of \['large', 'small'\]"):
        export_onnx(model, tmp_path / "net.onnx", example, int8=[(large, small)])


def test_several_inputs_and_outputs(tmp_path):
    model, ids = Pair().eval(), torch.tensor([[1, 2, 3, 0], [4, 5, 6, 0]])
    more = {"bias": torch.randn(2, 3)}
    check = export_onnx(model, tmp_path / "a.onnx", ((ids,), {"scale": 2.0, "more": more}))
    assert check.max_abs_diff < 1e-5
    names = [i.name for i in OnnxNetwork(check.path).session.get_inputs()]
    assert names == ["input0", "input1"]
    one = ((ids[:1], torch.rand(4, 4)), {"more": {"bias": torch.randn(1, 3)}})
    export_onnx(model, tmp_path / "b.onnx", one)
    x, shared, bias = torch.randint(7, (5, 4)), torch.rand(4, 4), torch.randn(5, 3)
    with torch.no_grad():
        wanted = model(x, shared, more={"bias": bias})
    found = OnnxNetwork(tmp_path / "b.onnx")(x, shared, bias)
    torch.testing.assert_close(found, [*wanted.values()], rtol=1e-4, atol=1e-5)


def test_an_example_of_zeros_hides_no_difference(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 4, 3, bias=False))
    batch = torch.randn(16, 1, 8, 8)
    check = export_onnx(model, tmp_path / "x.onnx", torch.zeros(1, 1, 8, 8), int8=[batch])
    assert check.max_abs_diff > 0
