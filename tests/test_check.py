"""`check`: what passes, what fails, and what the row says."""

import re

import pytest
import torch
from problems_networks import chain, conv
from torch import Tensor, nn

import dsa_core.lab.check as check_module
from dsa_core.budget import Cost
from dsa_core.channels import follow
from dsa_core.lab import models
from dsa_core.lab.check import CheckRow, check, summary
from dsa_core.surgery import prune
from dsa_core.surgery.verify import count_macs, random_channels, randomise
from dsa_core.tracing import trace

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


def test_float32_has_its_own_tolerance() -> None:
    assert check("resnet8", dtype=torch.float32, files=False).status == "ok"


def factory(num_classes: int = 10) -> nn.Module:
    return chain(3, a=conv(2, 6), b=conv(6, 3))


factory.input_shape = (2, 5, 7)  # type: ignore[attr-defined]


def shapeless(num_classes: int = 10) -> nn.Module:
    """Takes images of 5 x 7 only, and does not say so."""
    return nn.Sequential(conv(2, 4), nn.Flatten(), nn.Linear(4 * 5 * 7, 3))


def wrong_shape(num_classes: int = 10) -> nn.Module:
    return factory()


wrong_shape.input_shape = (3, 8, 8)  # type: ignore[attr-defined]


def test_networks_of_ones_own_by_import_path() -> None:
    assert check(f"{__name__}:factory").status == "ok"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (f"{__name__}:shapeless", "input_shape"),
        (f"{__name__}:wrong_shape", r"does not accept an input of shape \(1, 3, 8, 8\): in a "),
        (f"{__name__}:absent", "cannot be imported"),
        ("resnet21", "resnet20"),
    ],
)
def test_problems_are_rows_that_say_what_to_do(name: str, words: str) -> None:
    row = check(name)
    assert row.status == "error"
    assert re.search(words, row.reason), row.reason


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


def test_what_the_graph_cannot_see_is_settled_by_the_trial_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(models, "build", lambda name: Fixed())
    monkeypatch.setattr(models, "example_input", lambda name: torch.randn(1, 3, 8, 8))
    assert check("fixed").status == "ok"
    monkeypatch.setattr("dsa_core.lab.check.trace", follow)  # a graph that is not verified
    row = check("fixed")
    assert row.status in ("failed", "error")
    assert row.reason


def test_a_wrong_cut_is_found_by_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Fixed().double(), torch.randn(1, 3, 8, 8, dtype=torch.float64)
    graph = trace(model, x)
    monkeypatch.setattr(check_module, "prune", lambda m, g, keep: prune(m, g, keep.flip(0)))
    keep = torch.arange(graph.n_channels) < 2
    row = check_module.compare("fixed", model, graph, x, keep, files=False)
    assert row.status == "failed"
    assert "masked and pruned differ" in row.reason


class Two(nn.Module):
    """Returns two tensors in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 8), conv(8, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.b(self.a(x).relu())
        return {"map": x, "mean": x.mean((2, 3))}


@pytest.mark.parametrize(
    ("network", "status", "words"),
    [(Two(), "ok", ""), (nn.Sequential(conv(3, 4)), "failed", "nothing to prune.*network output")],
)
def test_any_output_and_networks_without_choice(
    monkeypatch: pytest.MonkeyPatch, network: nn.Module, status: str, words: str
) -> None:
    monkeypatch.setattr(models, "build", lambda name: network)
    monkeypatch.setattr(models, "example_input", lambda name: torch.randn(1, 3, 8, 8))
    row = check("mine")
    assert row.status == status, row.reason
    assert re.search(words, row.reason)


def test_distance_is_relative_and_sees_shapes() -> None:
    one = torch.tensor([4.0, -2.0])
    assert check_module.distance(one, one) == 0
    assert check_module.distance(one, torch.tensor([4.0, -1.0])) == 0.25
    assert check_module.distance(one, torch.tensor([4.0])) == float("inf")


def test_a_wrong_prediction_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module, "count_macs", lambda model, x: 1)
    row = check("resnet8")
    assert (row.status, row.reason) == ("failed", "predicted and counted MACs differ")


def test_a_mask_without_effect_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module, "random_channels", lambda graph, keep, seed: torch.ones(
        graph.n_channels, dtype=torch.bool))  # fmt: skip
    assert "says nothing" in check("resnet8").reason


def test_random_channels_keep_at_least_one() -> None:
    graph = trace(models.build("resnet8"), models.example_input("resnet8"))
    for ratio, seed in [(0.001, 0), (0.5, 1), (1.0, 2)]:
        keep = random_channels(graph, ratio, seed)
        for g in graph.prunable:
            count = int(keep[g.start : g.start + g.size].sum())
            assert count == max(1, round(ratio * g.size))


def test_counted_macs_of_a_convolution_and_a_linear_layer() -> None:
    """5 * 7 positions, 9 * 2 * 6 and 9 * 6 * 3 products each; then 3 * 3."""
    model = factory()
    wanted = 35 * (9 * 2 * 6 + 9 * 6 * 3) + 9
    assert count_macs(model, torch.randn(4, 2, 5, 7)) == wanted
    assert Cost.of(trace(model, torch.randn(1, 2, 5, 7)), "macs").dense == wanted


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
