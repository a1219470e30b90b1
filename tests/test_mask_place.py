"""The instruments of notebook 03: the truth by finite differences, and where a mask may act."""

import pytest
import torch
from course.exercises import mask_place
from course.exercises.mask_place import Probe
from problems_networks import cbr, chain
from torch import Tensor, nn
from torch.testing import assert_close

from dsa_core import data, masked_call, trace

TASK = data.classification()


def probe(alpha: tuple[float, float] = (0.5, 0.5)) -> Probe:
    torch.manual_seed(0)
    model = chain(8, a=cbr(3, 8), b=cbr(8, 8)).train()
    for block in (model.a, model.b):
        nn.init.normal_(block[1].bias)
    graph = trace(model, torch.zeros(1, 3, 8, 8))
    batches = [(torch.randn(16, 3, 8, 8), torch.randint(3, (16,))) for _ in range(2)]
    b = torch.rand(16) + 0.1
    return Probe(
        model, graph, torch.tensor(alpha, dtype=torch.float64), b, batches, TASK, sharpness=5.0
    )


def top(b: Tensor, count: int) -> Tensor:
    return (b >= b.sort(descending=True).values[count - 1]).float()


def loss(p: Probe, first: int, second: int) -> float:
    """Of the network that keeps so many channels of each group, by hand."""
    mask = torch.cat([top(p.b[:8], first), top(p.b[8:], second)])
    with torch.no_grad():
        losses = [TASK.loss(masked_call(p.model, p.graph, mask, x), y) for x, y in p.batches]
    return float(sum(losses)) / 2


@pytest.mark.parametrize(
    ("alpha", "around"),
    [
        # half of 8 channels are 4; an eighth of 8 is 1 channel
        ((0.5, 0.5), [((5, 4), (3, 4)), ((4, 5), (4, 3))]),
        # 8 cannot become 9, nor 1 become 0: one side only
        ((1.0, 1 / 8), [((8, 1), (7, 1)), ((8, 2), (8, 1))]),
    ],
)
def test_finite_differences_by_hand(alpha, around) -> None:
    p = probe(alpha)
    slopes = [
        (loss(p, *more) - loss(p, *less)) / ((sum(more) - sum(less)) / 8) for more, less in around
    ]
    wanted = torch.tensor(slopes, dtype=torch.float64)
    # losses in float32, divided by an eighth
    assert_close(mask_place.finite_difference(p), wanted, rtol=1e-4, atol=1e-5)


def test_neither_place_changes_the_network() -> None:
    p = probe()
    before = {name: value.clone() for name, value in p.model.state_dict().items()}
    placed = mask_place.before_the_relu(p, passes=3, seed=0)
    at = mask_place.at_the_consumers(p, "straight_through", passes=3, seed=0)
    assert placed.shape == at.shape == (2,)
    assert_close(p.model.state_dict(), before, rtol=0, atol=0)
    assert_close(placed, mask_place.before_the_relu(p, passes=3, seed=0))
    assert not torch.equal(placed, mask_place.before_the_relu(p, passes=3, seed=1))


def test_before_the_relu_a_dropped_channel_has_no_gradient() -> None:
    """With m z before a ReLU, d relu(m z) / dm at m = 0 is z ReLU'(0) = 0; after it, relu(z)."""
    p = probe()
    x, y = p.batches[0]
    mask = torch.ones(16)
    mask[2] = 0
    mask.requires_grad_()
    inside = mask_place.loss_before_the_relu(p, mask, (x, y))
    outside = TASK.loss(masked_call(p.model, p.graph, mask, x), y)
    assert_close(inside, outside)
    assert float(torch.autograd.grad(inside, mask)[0][2]) == 0.0
    assert float(torch.autograd.grad(outside, mask)[0][2]) != 0.0
