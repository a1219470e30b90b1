"""Sensitivity of groups, gradients of keep ratios, and how rankings agree."""

import copy
import math

import pytest
import torch
from course.sensitivity import (
    correlate,
    mean_ratio_gradient,
    role,
    sensitivity,
    softmax_scaled,
)
from scipy.stats import rankdata
from torch import nn
from torch.testing import assert_close

import dsa_core as dsa
from dsa_core.channels import ChannelGraph
from dsa_core.errors import ConfigError
from dsa_core.lab.data import Batches

TASK = dsa.data.classification()


def little_network() -> nn.Sequential:
    """Two prunable groups, of 4 and 6 channels; BatchNorm in a state of its own."""
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10),
    )  # fmt: skip
    with torch.no_grad():
        for norm in (net[1], net[4]):
            norm.weight.uniform_(0.5, 1.5)
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.5, 2.0)
    return net.eval()


@pytest.fixture(scope="module")
def case() -> tuple[nn.Sequential, ChannelGraph, Batches]:
    net = little_network()
    digits = dsa.data.load("digits")
    batches = digits.batches("test", batch_size=60, indices=torch.arange(150))
    return net, dsa.trace(net, torch.zeros(1, 1, 8, 8)), batches


def test_one_group_at_a_time_equals_cutting_it_by_hand(case) -> None:
    net, graph, batches = case
    before = copy.deepcopy(net.state_dict())
    found = sensitivity(net, graph, batches, TASK, keep=0.5)
    fresh = sensitivity(net, graph, batches, TASK, keep=0.5, norms=batches)
    assert found.names == tuple(g.name for g in graph.prunable)
    whole = dsa.evaluate(net, batches, TASK).loss
    for k, (conv, block, n) in enumerate(((net[0], slice(0, 4), 2), (net[3], slice(4, 10), 3))):
        norms = conv.weight.detach().abs().flatten(1).sum(1)
        keep = torch.ones(10, dtype=torch.bool)
        keep[block] = norms >= norms.sort(descending=True).values[n - 1]
        cut = dsa.prune(net, graph, keep)
        stale = dsa.evaluate(cut, batches, TASK).loss
        assert float(found.rises[k]) == pytest.approx(stale - whole, rel=1e-4)
        dsa.recalibrate_batchnorm(cut, batches, len(batches))
        recalibrated = dsa.evaluate(cut, batches, TASK).loss
        assert float(fresh.rises[k]) == pytest.approx(recalibrated - whole, rel=1e-3)
    assert_close(net.state_dict(), before, rtol=0, atol=0)


def test_keeping_all_costs_nothing_and_wrong_ratios_are_refused(case) -> None:
    net, graph, batches = case
    found = sensitivity(net, graph, batches, TASK, keep=1.0)
    assert_close(found.rises, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-6)
    for keep in (0.0, 1.2):
        with pytest.raises(ConfigError, match="keep"):
            sensitivity(net, graph, batches, TASK, keep=keep)


def test_the_mean_gradient_is_the_slope_of_the_mean_field_loss(case, monkeypatch) -> None:
    """Central differences of the loss under masks p(alpha), averaged over the same batches."""
    net, graph, batches = case
    net = copy.deepcopy(net).double()
    alpha = torch.tensor([0.6, 0.7], dtype=torch.float64)
    b = dsa.importance(net, graph).double()

    def loss(values: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> float:
        p = dsa.keep_probs(b, values, graph, sharpness=3.0)
        run = copy.deepcopy(net).train()  # statistics of the batch
        return TASK.loss(dsa.masked_call(run, graph, p, x), y).item()

    class Doubled(Batches):
        def epoch(self, epoch: int, start: int = 0):
            return ((x.double(), y) for x, y in batches.epoch(epoch, start))

    doubled = Doubled.__new__(Doubled)
    monkeypatch.setattr("course.sensitivity.MOST_BATCHES", 2)
    before = copy.deepcopy(net.state_dict())
    found = mean_ratio_gradient(net, graph, doubled, TASK, alpha=alpha, sharpness=3.0)
    assert not net.training
    assert_close(net.state_dict(), before, rtol=0, atol=0)
    rows = []
    for x, y in list(doubled.epoch(0))[:2]:
        ends = [
            [loss(alpha + s * 1e-5 * e, x, y) for s in (1, -1)]
            for e in torch.eye(2, dtype=torch.float64)
        ]
        rows.append([(up - down) / 2e-5 for up, down in ends])
    rows_ = torch.tensor(rows, dtype=torch.float64)
    assert_close(found.mean, rows_.mean(0), rtol=1e-4, atol=1e-7)
    assert_close(found.error, (rows_[0] - rows_[1]).abs() / 2, rtol=1e-3, atol=1e-7)


def test_softmax_is_scaled_by_the_standard_deviation() -> None:
    values = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    spread = math.sqrt((4 + 1 + 9) / 3)
    powers = torch.tensor([math.exp(v / spread) for v in (1, 2, 6)], dtype=torch.float64)
    assert_close(softmax_scaled(values), powers / powers.sum())
    assert_close(softmax_scaled(10 * values), softmax_scaled(values))
    assert_close(softmax_scaled(torch.ones(4)), torch.full((4,), 0.25, dtype=torch.float64))


def test_orders_of_the_paper_s_figure_give_these_coefficients() -> None:
    """By hand: 1 - 6 sum d^2 / (12 (144 - 1)), with sum d^2 = 24 for DSA and 112 for SSL.

    The paper prints 0.89 and 0.53 beside that figure: its orders do not quite give them.
    """
    orders = {"sensitivity": "AGDEHIJBCFKL", "dsa": "DGAIHJECBFKL", "ssl": "DEBACGFHJIKL"}
    places = {who: [order.index(n) for n in "ABCDEFGHIJKL"] for who, order in orders.items()}
    for who, squares in (("dsa", 24), ("ssl", 112)):
        found = correlate(places[who], places["sensitivity"]).spearman
        assert found == pytest.approx(1 - 6 * squares / (12 * 143))


def test_correlations_by_hand_with_ties() -> None:
    x, y = [1.0, 2.0, 2.0, 5.0], [1.0, 3.0, 2.0, 2.0]

    def pearson(a: torch.Tensor, b: torch.Tensor) -> float:
        a, b = a - a.mean(), b - b.mean()
        return float((a * b).sum() / (a.norm() * b.norm()))

    found = correlate(x, y)
    tx, ty = (torch.tensor(v, dtype=torch.float64) for v in (x, y))
    assert found.pearson == pytest.approx(pearson(tx, ty))
    ranks = [torch.from_numpy(rankdata(v)) for v in (x, y)]
    assert found.spearman == pytest.approx(pearson(*ranks))
    assert correlate(tx, torch.exp(tx)).spearman == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("x", "y", "word"), [([1, 2], [1, 2], "three"), ([1, 2, 3], [1, 2], "three"),
                         ([1, 1, 1], [1, 2, 3], "constant")],
)  # fmt: skip
def test_what_cannot_correlate_is_refused(x: list[float], y: list[float], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        correlate(x, y)


def test_roles_of_a_residual_network() -> None:
    net = dsa.models.build("resnet20")
    graph = dsa.trace(net, torch.zeros(1, 3, 32, 32))
    roles = {g.name: role(net, graph, g) for g in graph.prunable}
    assert roles["conv1"] == "stem"
    assert roles["layer1.0.conv1"] == "inner"
    assert roles["layer2.0.conv1"] == roles["layer3.0.conv1"] == "strided"
    assert roles["layer2.0.conv2"] == roles["layer3.0.conv2"] == "shortcut"
    assert sorted(roles.values()).count("inner") == 7
