"""`check`: what passes, what fails, and what the row says."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems_networks import chain, conv
from problems_runs import graph8
from torch import Tensor, nn

import dsa_core.lab.check as check_module
from dsa_core.channels import follow
from dsa_core.lab import models
from dsa_core.lab.check import CheckRow, check, summary
from dsa_core.surgery import prune
from dsa_core.surgery.verify import count_macs, random_channels, randomise

NETWORKS = ["resnet20", "resnet20_a", "vgg16_cifar", "squeezenet1_1", "mobilenet_v3_small"]


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_pass(name: str) -> None:
    row = check(name)
    assert (row.status, row.reason) == ("ok", "")
    assert row.max_abs_diff is not None
    assert 0 <= row.max_abs_diff < 1e-10
    assert row.macs_predicted == row.macs_counted
    assert row.groups > 0
    assert row.seconds > 0


def factory(num_classes: int = 10) -> nn.Module:
    return chain(3, a=conv(2, 6), b=conv(6, 3))


factory.input_shape = (2, 5, 7)  # type: ignore[attr-defined]


def shapeless(num_classes: int = 10) -> nn.Module:
    """Takes images of 5 x 7 only, and does not say so."""
    return nn.Sequential(conv(2, 4), nn.Flatten(), nn.Linear(4 * 5 * 7, 3))


def wrong_shape(num_classes: int = 10) -> nn.Module:
    return factory()


wrong_shape.input_shape = (3, 8, 8)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("factory", "ok", ""),
        ("shapeless", "error", "input_shape"),
        ("wrong_shape", "error", r"forward itself raises .*, in a .* \(1, 3, 8, 8\)"),
        ("absent", "error", "cannot be imported"),
    ],
)
def test_networks_of_ones_own_by_import_path(name: str, status: str, words: str) -> None:
    row = check(f"{__name__}:{name}")
    assert row.status == status
    assert re.search(words, row.reason), row.reason


def patch_in(monkeypatch: pytest.MonkeyPatch, network: nn.Module) -> None:
    """Let every name mean this network."""
    monkeypatch.setattr(models, "build", lambda name: network)
    monkeypatch.setattr(models, "example_input", lambda name: torch.randn(1, 3, 8, 8))


class Fixed(nn.Module):
    """Splits at a width that the graph cannot tell from a number of pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(2, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        x = self.a(x)
        x = x.view(n, x.shape[1] // 2, 2, h, w).sum(1)  # two channels in each piece, always
        return self.head(self.b(x).mean((2, 3)))


def test_a_graph_that_is_not_verified_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_in(monkeypatch, Fixed())
    assert check("fixed").status == "ok"  # the trial cut has settled it
    monkeypatch.setattr("dsa_core.lab.check.trace", follow)
    row = check("fixed")
    assert row.status in ("failed", "error")
    assert row.reason


def test_a_network_without_choice_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_in(monkeypatch, nn.Sequential(conv(3, 4)))
    row = check("mine")
    assert row.status == "failed"
    assert re.search("nothing to prune.*network output", row.reason)


def test_distance_is_relative_and_sees_shapes() -> None:
    one = torch.tensor([4.0, -2.0])
    assert check_module.distance(one, one) == 0
    assert check_module.distance(one, torch.tensor([4.0, -1.0])) == 0.5
    assert check_module.distance(torch.tensor([-1e9, -2.0]), torch.tensor([-1e9, -1.0])) == 0.5
    assert check_module.distance(one, torch.tensor([3.0, -1.0])) == 0.25
    assert check_module.distance(one, torch.tensor([4.0])) == float("inf")


@pytest.mark.parametrize(
    ("name", "function", "reason"),
    [
        ("prune", lambda m, g, _: prune(m, g, random_channels(g, 0.5, 1)), "masked and pruned di"),
        ("count_macs", lambda *_: 1, "predicted and counted MACs differ"),
        ("random_channels", lambda graph, *_: torch.ones(graph.n_channels) > 0, "says nothing"),
        ("load", lambda _, model: model, "the saved and loaded network differs"),
    ],
)
def test_what_does_not_hold_fails(
    monkeypatch: pytest.MonkeyPatch, name: str, function: Callable[..., Any], reason: str
) -> None:
    monkeypatch.setattr(check_module, name, function)
    row = check("resnet8")
    assert row.status == "failed"
    assert reason in row.reason


def test_random_channels_keep_at_least_one() -> None:
    for ratio, seed in [(0.001, 0), (0.5, 1), (1.0, 2)]:
        keep = random_channels(graph8(), ratio, seed)
        for g in graph8().prunable:
            count = int(keep[g.start : g.start + g.size].sum())
            assert count == max(1, round(ratio * g.size))


def test_counted_macs_of_a_convolution_and_a_linear_layer() -> None:
    """5 * 7 positions, 9 * 2 * 6 and 9 * 6 * 3 products each; then 3 * 3."""
    assert count_macs(factory(), torch.randn(4, 2, 5, 7)) == 35 * (9 * 2 * 6 + 9 * 6 * 3) + 9


def test_randomise_leaves_no_constant_scale() -> None:
    model = models.build("resnet8")
    randomise(model)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.numel() > 1 and tensor.is_floating_point() and "shortcut.before" not in name:
            assert float(tensor.detach().std()) > 0, name


def test_summary_counts_and_names_the_largest_difference() -> None:
    rows = [
        CheckRow(model="a", status="ok", max_abs_diff=1e-15),
        CheckRow(model="b", status="ok", max_abs_diff=3e-14),
        CheckRow(model="c", status="failed", max_abs_diff=1.0),
    ]
    assert summary(rows) == "2 of 3 networks pass; largest difference masked - pruned 3.0e-14"
