"""The networks: the paper's sizes, the standard weights, traceable, and errors that help."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from course.widgets.networks import costs_of
from problems_runs import graph8
from torch import nn
from torch.nn.functional import pad
from torch.utils.flop_counter import FlopCounterMode

from dsa_core.errors import ConfigError, SurgeryError
from dsa_core.lab import data, models
from dsa_core.lab.models.weights import load_weights
from dsa_core.surgery import load, save
from dsa_core.training import evaluate

# name: convolutions, MACs in millions, parameters of the convolutions in millions (DSA, computed
# from the stated architectures), each to the last digit printed.
PAPER = {
    "resnet20": (21, 40.81, 0.270),
    "resnet56": (57, 125.75, 0.851),
    "resnet18_cifar": (20, 555.42, 11.159),
    "vgg16_cifar": (13, 313.20, 14.710),
}


def convolution_macs(name: str) -> int:
    """Count by torch's counter (2 per MAC) on tensors without data, less the linear layers."""
    model = models.build(name).to("meta")
    with FlopCounterMode(display=False) as counter:
        model(models.example_input(name).to("meta"))
    linear = sum(m.in_features * m.out_features for m in model.modules() if type(m) is nn.Linear)
    return counter.get_total_flops() // 2 - linear


@pytest.mark.parametrize("name", PAPER)
def test_sizes_are_the_papers(name):
    convolutions, million_macs, million_parameters = PAPER[name]
    layers = [m for m in models.build(name).modules() if isinstance(m, nn.Conv2d)]
    assert len(layers) == convolutions
    assert all(layer.bias is None for layer in layers)
    assert round(convolution_macs(name) / 1e6, 2) == million_macs
    assert round(sum(layer.weight.numel() for layer in layers) / 1e6, 3) == million_parameters


def test_the_shortcut_without_parameters_saves_two_convolutions():
    # side^2 * c_in * c_out for each 1x1 convolution
    saved = 16**2 * 16 * 32 + 8**2 * 32 * 64
    assert convolution_macs("resnet20") - convolution_macs("resnet20_a") == saved


@pytest.mark.parametrize("name", models.names())
def test_every_network_runs_and_traces(name):
    if name == "vit_digits":
        pytest.importorskip("timm", reason="timm is not installed")
    model = models.build(name, num_classes=7).eval()
    x = models.example_input(name, 2)
    exported = torch.export.export(model, (x,), strict=False)
    with torch.no_grad():
        outputs = model(x)
        torch.testing.assert_close(exported.module()(x), outputs)
    # a class for the image, for each pixel, or an image of twice the size
    wanted = {"segnet_small": (2, 7, 32, 32), "edsr_small": (2, 3, 32, 32)}.get(name, (2, 7))
    assert outputs.shape == wanted


def test_what_needs_timm_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.models.vision_transformer", None)
    with pytest.raises(ConfigError, match="vit_digits needs timm: pip install timm"):
        models.build("vit_digits")


def test_torchvision_by_its_own_name():
    assert models.example_input("inception_v3", 2).shape == (2, 3, 299, 299)
    x = models.example_input("googlenet")
    assert x.shape == (1, 3, 224, 224)
    with torch.no_grad():
        assert models.build("googlenet", num_classes=3).eval()(x).shape == (1, 3)
    assert "mobilenet_v2" not in models.names()
    assert {"resnet20", "mobilenet_v2"} <= set(models.names(torchvision=True))


def test_slice_and_pad_shortcut_is_a_padded_slice():
    shortcut = models.SlicePadShortcut(16, 32, 2)
    x = torch.randn(3, 16, 9, 8)
    expected = pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
    torch.testing.assert_close(shortcut(x), expected, rtol=0, atol=0)
    assert not shortcut.state_dict()


def test_block_adds_branch_and_shortcut():
    block = models.BasicBlock(4, 4, 1, shortcut=models.ConvShortcut).eval()
    nn.init.zeros_(block.bn2.weight)
    nn.init.constant_(block.bn2.bias, 0.5)
    x = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(block(x), torch.relu(x + 0.5))


@pytest.mark.parametrize("name", ["resnet20", "vgg16_cifar"])
def test_kaiming_initialisation(name):
    torch.manual_seed(0)
    model = models.build(name)
    for layer in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        n = layer.weight.numel()
        wanted = math.sqrt(2 / (layer.out_channels * layer.kernel_size[0] ** 2))
        # the standard deviation of n normal numbers is off by 1 / sqrt(2 n); five times that
        assert layer.weight.std().item() == pytest.approx(wanted, rel=5 / math.sqrt(2 * n))
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        assert bool((norm.weight == 1).all() and (norm.bias == 0).all())


def test_factory_by_import_path(tmp_path: Path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n"
        "def tiny(num_classes):\n    return nn.Linear(4, num_classes)\n"
        "def shaped(num_classes):\n    return nn.Linear(4, num_classes)\n"
        "shaped.input_shape = (4,)\n"
        "def wrong(num_classes):\n    return 'a string'\n"
        "number = 3\n"
        "net = nn.Linear(4, 2)\n"
        "def raises():\n    raise KeyError('oh')\n"
        "def bent():\n    return nn.Linear(4, 2)\n"
        "bent.input_shape = (3, 'x')\n"
        "def plain():\n    return nn.Conv2d(3, 4, 40)\n"
        "def odd():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(7, 2))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert models.build("my_nets:tiny", num_classes=6).out_features == 6
    assert models.example_input("my_nets:shaped", 5).shape == (5, 4)
    assert models.build("my_nets:plain").out_channels == 4  # takes no num_classes
    assert models.example_input("my_nets:tiny", 5).shape == (5, 4)  # guessed from the first layer
    assert models.example_input("my_nets:plain").shape == (1, 3, 224, 224)
    for name, words in {
        "my_nets:odd": "input_shape",
        "my_nets:absent": "cannot be imported",
        "no_such_package:f": "package.module:factory",
        "my_nets:number": "int, not a function",
        "my_nets:net": "Linear, not a function that makes a network",
        "my_nets:raises": r"could not be built \(KeyError: 'oh'\)",
        "my_nets:bent": "input_shape",
    }.items():
        with pytest.raises(ConfigError, match=words):
            models.example_input(name)
    with pytest.raises(ConfigError, match=r"wanted an nn\.Module"):
        models.build("my_nets:wrong")


def test_a_name_out_of_a_file_imports_no_code(tmp_path: Path, monkeypatch):
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    keep = torch.ones(graph8().n_channels, dtype=torch.bool)
    save(tmp_path, models.build("resnet8"), graph8(), keep, name="trap:net")
    with pytest.raises(SurgeryError, match=r"names code.*Pass the dense network as model="):
        load(tmp_path)
    with pytest.raises(ConfigError, match="names code"):
        costs_of("trap:net")
    assert "trap" not in sys.modules
    assert models.build_known("alexnet", num_classes=3).classifier[-1].out_features == 3


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ResNet50", "'resnet50'"),
        ("vgg16_cifra", "'vgg16_cifar'"),
        ("mobilenetv2", "'mobilenet_v2'"),
        ("zzzzzz", r"package\.module:factory"),
    ],
)
def test_wrong_names_get_the_nearest_right_one(name, hint):
    for use in (models.build, models.example_input):
        with pytest.raises(ConfigError, match=hint):
            use(name)


def test_no_classes():
    with pytest.raises(ConfigError, match="num_classes must be at least 1, got 0"):
        models.build("resnet8", num_classes=0)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "file", "accuracy", "n"),
    [
        pytest.param("resnet20_a", "resnet20-12fca82f.th", 0.9173, 10_000, marks=pytest.mark.slow),
        ("resnet20_a", "resnet20-12fca82f.th", 0.9173, 1000),
        ("resnet56_a", "resnet56-4bfd9763.th", 0.9339, 1000),
    ],
)
def test_standard_weights_score_as_published(data_root, name, file, accuracy, n):
    model = models.build(name)
    path = data_root / "weights" / file
    if not path.is_file():
        pytest.skip(f"standard weights {path} are missing: see data/README.md")
    load_weights(model, path)
    cifar = replace(
        data.load("cifar10", data_root), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    batches = cifar.batches("test", batch_size=250, indices=torch.arange(n))
    result = evaluate(model, batches, data.classification())
    # all images: the published figure; 1,000 of them: within three binomial standard errors
    window = 5e-5 if n == 10_000 else 3 * math.sqrt(accuracy * (1 - accuracy) / n)
    assert abs(result.score - accuracy) <= window
