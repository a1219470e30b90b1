"""Weights under a mask, in place, against the same network as a function of its mask."""

from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems_networks import TOYS, Toy
from torch import Tensor, nn
from torch.func import functional_call

from dsa_core.channels import ChannelGraph
from dsa_core.errors import ConfigError
from dsa_core.masked_weights import MaskedWeights, Site, consumer_sites
from dsa_core.masks import masked_parameters
from dsa_core.tracing import trace

# slices that always stay; several slices a channel
NAMES = ["slice and pad by one", "depthwise", "one dimension"]


@cache
def graph_of(name: str) -> ChannelGraph:
    toy = named(name)
    return trace(toy.build(), torch.zeros(1, *toy.shape))


def named(name: str) -> Toy:
    return next(toy for toy in TOYS if toy.name == name)


class Case:
    """A network in float64, its masked weights, a batch, and a mask with both kinds of channels."""

    def __init__(self, name: str, seed: int = 0, *, soft: bool = False) -> None:
        self.graph = graph_of(name)  # draws weights, but only the first time
        torch.manual_seed(seed)
        self.model = named(name).build().double()
        self.parameters = dict(self.model.named_parameters())
        sites = consumer_sites(self.graph)
        self.weights = MaskedWeights(self.parameters, sites, self.graph.n_channels)
        self.x, self.y = torch.randn(6, *named(name).shape).double(), torch.randint(0, 3, (6,))
        self.mask = torch.rand(self.graph.n_channels).double()
        self.mask = self.mask if soft else (self.mask > 0.4).double()
        self.mask[0], self.mask[1] = 1, 0

    def loss(self, out: Tensor) -> Tensor:
        return nn.functional.cross_entropy(out, self.y)

    def values(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.parameters.items()}

    def by_function(self) -> tuple[Tensor, dict[str, Tensor]]:
        """dL/dm and dL/dw by autograd through a network of masked parameters."""
        mask = self.mask.clone().requires_grad_()
        masked = {**self.parameters, **masked_parameters(self.parameters, self.graph, mask)}
        loss = self.loss(functional_call(self.model, masked, (self.x,)))
        slope, *rest = torch.autograd.grad(loss, [mask, *self.parameters.values()])
        return slope, dict(zip(self.parameters, rest, strict=True))

    def in_place(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The same by `MaskedWeights`."""
        self.weights.put_on(self.mask)
        self.loss(self.model(self.x)).backward()
        slope = self.weights.turn()
        self.weights.take_off()
        return slope, {name: p.grad for name, p in self.parameters.items()}


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_gradients_are_those_of_autograd(name, soft):
    case = Case(name, soft=soft)
    slope, gradients = case.by_function()
    free, turned = case.in_place()
    torch.testing.assert_close(free, slope, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(turned, gradients, rtol=1e-12, atol=1e-12)
    assert (free[case.mask == 0] != 0).any()  # dropped channels have one too
    assert (free[case.mask > 0] != 0).any()


@pytest.mark.parametrize("name", NAMES)
def test_the_free_gradient_is_the_difference_quotient(name):
    case, h = Case(name, seed=1, soft=True), 1e-6
    free, _ = case.in_place()
    for i in range(0, len(free), 3):
        seen = []
        for side in (h, -h):
            mask = case.mask.clone()
            mask[i] += side
            case.weights.put_on(mask)
            seen.append(float(case.loss(case.model(case.x)).detach()))
        case.weights.take_off()
        assert float(free[i]) == pytest.approx((seen[0] - seen[1]) / (2 * h), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("name", NAMES)
@given(st.integers(0, 100), st.lists(st.sampled_from(["on", "off", "turn"]), max_size=6))
def test_whatever_is_put_on_the_bits_come_back(name, seed, order):
    case = Case(name)
    before, generator = case.values(), torch.Generator().manual_seed(seed)
    for what in order:
        if what == "on":
            mask = torch.rand(case.graph.n_channels, generator=generator).double()
            case.weights.put_on(mask)
            assert case.weights.on
        elif what == "off":
            case.weights.take_off()
        elif case.weights.on:
            case.weights.turn()
    case.weights.take_off()
    assert not case.weights.on
    assert all(torch.equal(before[name], value) for name, value in case.values().items())


def test_a_mask_swapped_between_forward_and_backward_disturbs_nothing():
    plain, swapped = Case("slice and pad by one"), Case("slice and pad by one")
    wanted = plain.in_place()
    swapped.weights.put_on(swapped.mask)
    loss = swapped.loss(swapped.model(swapped.x))
    under = swapped.values()
    swapped.weights.put_on(1 - swapped.mask)
    swapped.model.eval()(swapped.x)
    swapped.weights.put_on(swapped.mask)
    assert all(torch.equal(under[name], value) for name, value in swapped.values().items())
    loss.backward()
    assert torch.equal(swapped.weights.turn(), wanted[0])
    for name, gradient in wanted[1].items():
        assert torch.equal(swapped.parameters[name].grad, gradient)


def test_masks_lost_to_rounding_make_no_denormal_weights():
    weight = nn.Parameter(torch.tensor([[0.01, 0.01, 0.01]]))
    weights = MaskedWeights({"w": weight}, [Site("w", torch.arange(3), (1, 3))], 3)
    weights.put_on(torch.tensor([1e-37, -1e-37, 1e-19]))
    assert weight[0, :2].tolist() == [0.0, 0.0]
    assert weight[0, 2] > torch.finfo().tiny
    weight.sum().backward()
    torch.testing.assert_close(weights.turn(), torch.full((3,), 0.01))


def test_frozen_weights_give_a_slope_and_keep_nothing():
    free, case = Case("one dimension"), Case("one dimension")
    case.parameters["4.weight"].requires_grad_(False)
    sites = consumer_sites(case.graph)
    case.weights = MaskedWeights(case.parameters, sites, case.graph.n_channels)
    case.weights.put_on(case.mask)
    (case.loss(case.model(case.x)) * 8).backward()
    for name, parameter in case.parameters.items():
        if name != "4.weight":
            parameter.grad /= 8
    torch.testing.assert_close(case.weights.turn(frozen_scale=8.0), free.in_place()[0])
    case.weights.close()
    assert not case.parameters["4.weight"].requires_grad
    assert case.parameters["4.weight"].grad is None


def test_places_that_always_stay_and_a_loss_that_reaches_no_weight():
    weight = nn.Parameter(torch.tensor([[1.0, 2.0, 3.0]]))
    site = Site("w", torch.tensor([1, -1, 0]), (1, 3))
    weights = MaskedWeights({"w": weight}, [site], 2)
    weights.put_on(torch.tensor([0.5, 0.0]))
    assert weight.tolist() == [[0.0, 2.0, 1.5]]
    assert weights.turn().tolist() == [0.0, 0.0]  # no gradient at all
    (weight * torch.tensor([[5.0, 7.0, 11.0]])).sum().backward()
    assert weights.turn().tolist() == [3.0 * 11, 1.0 * 5]
    assert weight.grad.tolist() == [[0.0, 7.0, 5.5]]
    with pytest.raises(ConfigError, match=r"mask: wanted shape \(2,\), got \(3,\)"):
        weights.put_on(torch.ones(3))


def test_slopes_in_half_precision_are_summed_in_float32():
    weight = nn.Parameter(torch.full((1, 4096), 8.0, dtype=torch.float16))
    weights = MaskedWeights({"w": weight}, [Site("w", torch.zeros(1).long(), (-1, 1))], 1)
    assert weights.slopes([weight.detach()]).tolist() == [64.0 * 4096]  # above the largest float16
