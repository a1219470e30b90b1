"""Keep probabilities, estimators, importance by hand, and a network under masks."""

import math

import pytest
import torch
from problems_networks import Part, chain, conv
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from dsa_core.budget import Budget, Cost
from dsa_core.channels import ChannelGraph
from dsa_core.errors import ConfigError, SurgeryError
from dsa_core.lab import models
from dsa_core.masks import (
    cut_error,
    estimator_mask,
    keep_probs,
    masked,
    masked_call,
    masked_parameters,
    sample_mask,
    top_channels,
)
from dsa_core.methods import Uniform
from dsa_core.pruner import Pruner
from dsa_core.ranking import TINY, importance
from dsa_core.surgery import prune
from dsa_core.tracing import trace


@pytest.fixture
def small() -> tuple[nn.Module, ChannelGraph]:
    """resnet8 in float64 with random scales."""
    torch.manual_seed(0)
    model = models.build("resnet8").double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 2.0)
            nn.init.normal_(module.bias)
    return model, trace(model, models.example_input("resnet8").double())


def sums(p: Tensor, graph: ChannelGraph) -> Tensor:
    return torch.stack([p[g.start : g.start + g.size].sum() for g in graph.prunable])


@pytest.mark.parametrize("sharpness", [0.05, 1.0, 20.0, 1e3])
def test_keep_probabilities_sum_to_the_kept_channels(small, sharpness: float):
    model, graph = small
    alpha = torch.rand(len(graph.prunable), dtype=torch.float64) * 0.9 + 0.05
    p = keep_probs(importance(model, graph).double(), alpha, graph, sharpness=sharpness)
    torch.testing.assert_close(sums(p, graph), alpha * graph.sizes, rtol=1e-9, atol=1e-9)


def test_keep_probabilities_are_the_sigmoid_log_function(small):
    """p = 1 / (1 + (b / beta1)^-beta2): the odds over b^beta2 are one number for a whole group."""
    model, graph = small
    b = importance(model, graph).double()
    p = keep_probs(b, torch.full((6,), 0.4).double(), graph, sharpness=2.0)
    for g in graph.prunable:
        part = slice(g.start, g.start + g.size)
        ratio = p[part] / (1 - p[part]) / b[part] ** 2
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-8, atol=0)


def test_gradient_of_keep_probabilities_to_the_ratios(small):
    """sum over a group of dp_i / dalpha = C (the sum is alpha C)."""
    model, graph = small
    alpha = torch.full((6,), 0.4, dtype=torch.float64, requires_grad=True)
    keep_probs(importance(model, graph).double(), alpha, graph, sharpness=3.0).sum().backward()
    torch.testing.assert_close(alpha.grad, graph.sizes.double(), rtol=1e-9, atol=1e-9)


def test_floor_raises_only_what_lies_below(small):
    model, graph = small
    b, alpha = importance(model, graph).double(), torch.full((6,), 0.3).double()
    plain = keep_probs(b, alpha, graph, sharpness=30.0)
    floored = keep_probs(b, alpha, graph, sharpness=30.0, floor=0.01)
    assert float(plain.min()) < 0.01
    torch.testing.assert_close(floored, torch.where(plain < 0.01, 0.01, plain))


def test_straight_through_is_a_sample_with_the_gradient_of_p():
    g = torch.Generator().manual_seed(0)
    p = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64, requires_grad=True)
    assert estimator_mask(p, "mean_field") is p
    n = 4000
    masks = torch.stack([estimator_mask(p, "straight_through", generator=g) for _ in range(n)])
    assert set(masks.detach().unique().tolist()) <= {0.0, 1.0}
    # standard error of the mean <= 1 / (2 sqrt n) = 0.008; four of them
    torch.testing.assert_close(masks.mean(0), p, rtol=0, atol=2 / math.sqrt(n))
    weights = torch.arange(5.0, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((masks[0] * weights).sum(), p)
    torch.testing.assert_close(gradient, weights)


def test_relaxed_masks_by_formula():
    """P(mask > 1/2) = p; d sigmoid((logit p + l) / T) / dp = m (1 - m) / (T p (1 - p))."""
    p = torch.full((20_000,), 0.3, dtype=torch.float64, requires_grad=True)
    mask = estimator_mask(p, "relaxed", generator=torch.Generator().manual_seed(1))
    assert float((mask > 0.5).double().mean()) == pytest.approx(0.3, abs=0.015)
    (gradient,) = torch.autograd.grad(mask.sum(), p)
    torch.testing.assert_close(gradient, mask * (1 - mask) / (0.5 * p * (1 - p)))


def test_relaxed_masks_are_finite_at_the_ends():
    p = torch.tensor([0.0, 1.0], requires_grad=True)
    mask = estimator_mask(p, "relaxed")
    assert bool(torch.isfinite(mask).all())
    torch.testing.assert_close(mask, torch.tensor([0.0, 1.0]), rtol=0, atol=1e-5)


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="straight_through"):
        estimator_mask(torch.rand(3), "gumbel")
    model = models.build("resnet8")
    with pytest.raises(ConfigError, match="gamma_first"):
        importance(model, trace(model, models.example_input("resnet8")), "gama")


def test_samples_have_no_gradient_and_follow_the_generator():
    p = torch.full((50,), 0.5, requires_grad=True)
    one, two = (sample_mask(p, torch.Generator().manual_seed(7)) for _ in range(2))
    assert not one.requires_grad
    torch.testing.assert_close(one, two, rtol=0, atol=0)


class Hand(nn.Module):
    """conv a with BN, conv b with BN, added; read by c, which has no BN."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.na = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)
        self.b, self.nb = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)
        self.c, self.d = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 1, 1)
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([3.0, -1.0])[:, None, None, None])
            self.b.weight.copy_(torch.tensor([4.0, 2.0])[:, None, None, None])
            self.na.weight.copy_(torch.tensor([-0.5, 0.25]))
            self.nb.weight.copy_(torch.tensor([1.5, -0.75]))
            self.c.weight.copy_(torch.tensor([[1.0, 2.0], [-3.0, 4.0]])[:, :, None, None])
            self.d.weight.copy_(torch.tensor([[5.0, -6.0]])[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.c((self.na(self.a(x)) + self.nb(self.b(x))).relu()))


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [  # first group: a and b (two channels); second: c, which has no BatchNorm: L1 instead
        ("gamma_first", [0.5, 0.25], [3.0, 7.0]),
        ("gamma_all", [(0.5 + 1.5) / 2, (0.25 + 0.75) / 2], [3.0, 7.0]),
        ("l1", [3.0 + 4.0, 1.0 + 2.0], [3.0, 7.0]),
        ("l2", [5.0, math.sqrt(5.0)], [math.sqrt(5.0), 5.0]),
        # gradients of one half each: |sum w / 2| over the consumers c (columns) and d
        ("taylor", [abs(1 - 3) / 2, (2 + 4) / 2], [5 / 2, 6 / 2]),
    ],
)
def test_importance_by_hand(kind, first, second):
    model = Hand().eval()
    graph = trace(model, torch.randn(1, 1, 4, 4))
    assert [g.members for g in graph.prunable] == [("a", "b"), ("c",)]
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    found = importance(model, graph, kind)
    torch.testing.assert_close(found, torch.tensor([*first, *second]))
    assert not found.requires_grad


def test_importance_is_positive_for_dead_channels_and_taylor_needs_gradients():
    model = Hand()
    nn.init.zeros_(model.na.weight)
    graph = trace(model, torch.randn(1, 1, 4, 4))
    assert importance(model, graph)[:2].tolist() == pytest.approx([TINY, TINY])
    with pytest.raises(ValueError, match="call backward"):
        importance(model, graph, "taylor")


def test_top_channels_takes_the_largest_and_on_ties_the_first(small):
    _, graph = small
    b = torch.ones(graph.n_channels)
    b[graph.prunable[1].start + 5] = 2.0
    counts = torch.tensor([3, 2, *[1] * 4])
    keep = top_channels(b, counts, graph)
    assert keep[:16].nonzero()[:, 0].tolist() == [0, 1, 2]
    second = keep[graph.prunable[1].start :][: graph.prunable[1].size]
    assert second.nonzero()[:, 0].tolist() == [0, 5]
    assert sums(keep, graph).tolist() == counts.tolist()


def test_mask_of_ones_changes_nothing(small):
    model, graph = small
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    ones = torch.ones(graph.n_channels, dtype=torch.float64)
    torch.testing.assert_close(masked_call(model, graph, ones, x), model(x), rtol=0, atol=0)


def test_masked_parameters_touch_consumers_only(small):
    model, graph = small
    before = {k: v.clone() for k, v in model.state_dict().items()}
    mask = torch.zeros(graph.n_channels).double()
    found = masked_parameters(dict(model.named_parameters()), graph, mask)
    assert set(found) == {name for name, _, _ in graph.consumers}
    assert "conv1.weight" not in found  # it reads the image
    assert all(bool((value == 0).all()) for value in found.values())
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_weights_come_back_to_the_bit_also_when_the_body_raises(small):
    model, graph = small
    before = {k: v.clone() for k, v in model.state_dict().items()}
    mask = torch.rand(graph.n_channels, dtype=torch.float64)
    given = mask.clone()

    def fail():
        with masked(model, graph, mask):
            assert not torch.equal(model.linear.weight, before["linear.weight"])
            raise KeyError("body")

    with pytest.raises(KeyError, match="body"):
        fail()
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    torch.testing.assert_close(mask, given, rtol=0, atol=0)


def test_masks_and_networks_that_do_not_fit_are_refused(small):
    model, graph = small
    with pytest.raises(ValueError, match=rf"mask must have shape \({graph.n_channels},\)"):
        masked_call(model, graph, torch.ones(3), torch.randn(1, 1, 8, 8))
    other = chain(4, a=conv(1, 4))
    with (
        pytest.raises(SurgeryError, match="not the one that was traced"),
        masked(other, graph, torch.ones(graph.n_channels)),
    ):
        pass


def test_mixed_masks_are_the_mean_field_or_a_sample_and_have_mean_p():
    p = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64).repeat(4000, 1).requires_grad_()
    mask = estimator_mask(p, "mixed", generator=torch.Generator().manual_seed(0))
    is_p, is_sample = mask == p, (mask == 0) | (mask == 1)
    assert bool((is_p | is_sample).all())
    assert is_p.double().mean().item() == pytest.approx(0.5, abs=0.02)  # 4 sigma of 12,000 coins
    # half of the entries are p itself, half Bernoulli: variance p (1 - p) / 2, at most 1/8
    torch.testing.assert_close(mask.mean(0), p[0], atol=4 * (0.125 / 4000) ** 0.5, rtol=0)
    (slope,) = torch.autograd.grad(mask.sum(), p)
    torch.testing.assert_close(slope, torch.ones_like(p))


class WhereEqual(nn.Module):
    """A block whose code asks at each call whether it may add its input."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).relu()
        return x + y if x.shape == y.shape else y


def test_a_cut_that_meets_other_code_is_told():
    torch.manual_seed(0)
    blocks = [nn.Conv2d(1, 16, 3), WhereEqual(16, 24), WhereEqual(24, 32)]
    model = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)).eval()
    graph = trace(model, torch.zeros(1, 1, 8, 8))
    assert graph.sizes.tolist() == [16, 24, 32]
    keep = torch.cat([torch.arange(n) % 16 < 8 for n in graph.sizes])  # 8, 16, 16
    counts = zip((16, 24, 32), (9, 7, 5), strict=True)
    other = torch.cat([torch.arange(n) % 16 < k for n, k in counts])
    assert cut_error(model, graph, other, prune(model, graph, other)) < 1e-5
    assert cut_error(model, graph, keep, prune(model, graph, keep)) > 1e-2
    assert cut_error(model, graph, other, Part(lambda _, x: (x, x))) == math.inf
    least = Budget(macs=1.0, divisor=8)
    cost = Cost.of(graph, "macs")
    share = cost.at(least.least_counts(cost)) / cost.dense
    found = Pruner(model, graph, Budget(macs=share, divisor=8), steps=0, method=Uniform())
    with pytest.warns(UserWarning, match="computes something else than the masked one"):
        found.finish()


@pytest.mark.parametrize("norm", [weight_norm, nn.utils.weight_norm])
def test_a_parametrized_layer_is_ranked_by_the_weight_it_computes(norm):
    model = nn.Sequential(norm(nn.Conv2d(1, 4, 3)), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    graph = trace(model, torch.randn(1, 1, 8, 8))
    own = dict(model.named_parameters())
    length, direction = (own[name] for name in own if name.startswith("0.") and "bias" not in name)
    with torch.no_grad():
        length.copy_(torch.arange(1.0, 5).view(4, 1, 1, 1))  # the norms of the computed filters
        direction.mul_(torch.arange(4.0, 0, -1).view(4, 1, 1, 1))  # changes nothing
    torch.testing.assert_close(importance(model, graph, "l2"), torch.arange(1.0, 5))
