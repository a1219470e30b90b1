"""The gradient of the loss with respect to the keep ratios, against finite differences."""

import pytest
import torch
from course.gradient import ratio_gradient
from problems_runs import TASK
from torch import Tensor, nn
from torch.testing import assert_close

from dsa_core.channels import ChannelGraph
from dsa_core.lab.data import Task
from dsa_core.masks import keep_probs
from dsa_core.tracing import trace

MEAN = Task("mean", lambda outputs, y: outputs.mean(), lambda outputs, y: outputs.sum(), "mean")


class Toy(nn.Module):
    """Two convolutions with BatchNorm and ReLU, and a linear layer; two groups, of 5 and 4."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.na = nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.b, self.nb = nn.Conv2d(5, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor, m: Tensor | None = None) -> Tensor:
        """With a mask m (9,): on the channels after the ReLU, not on the weights."""
        x = self.na(self.a(x)).relu()
        x = x if m is None else x * m[:5].view(1, -1, 1, 1)
        x = self.nb(self.b(x)).relu()
        x = x if m is None else x * m[5:].view(1, -1, 1, 1)
        return self.head(x.mean((2, 3)))


def toy() -> tuple[Toy, ChannelGraph, tuple[Tensor, Tensor], Tensor]:
    """In float64 with random scales: model, graph, batch, importance."""
    torch.manual_seed(0)
    model = Toy().double()
    graph = trace(model, torch.randn(2, 2, 6, 6, dtype=torch.float64))
    assert graph.sizes.tolist() == [5, 4]
    for norm in (model.na, model.nb):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
    batch = torch.randn(8, 2, 6, 6, dtype=torch.float64), torch.randint(3, (8,))
    return model, graph, batch, torch.rand(9, dtype=torch.float64) + 0.2


def gradient_of(model, graph, alpha, b, batch, *, estimator="mean_field", task=TASK, **changes):
    settings = {"sharpness": 4.0} | changes
    return ratio_gradient(model, graph, alpha, b, batch, task=task, estimator=estimator, **settings)


@pytest.mark.parametrize("sharpness", [0.5, 4.0, 20.0])
@pytest.mark.parametrize("alpha", [(0.5, 0.6), (0.25, 0.9), (0.85, 0.3)])
def test_mean_field_against_finite_differences(alpha, sharpness):
    model, graph, (x, y), b = toy()
    alpha = torch.tensor(alpha, dtype=torch.float64)

    def loss(alpha: Tensor) -> float:
        p = keep_probs(b, alpha, graph, sharpness=sharpness)
        twin = Toy().double()
        twin.load_state_dict(model.state_dict())
        return TASK.loss(twin(x, p), y).item()

    gradient = gradient_of(model, graph, alpha, b, (x, y), sharpness=sharpness)
    h = 1e-5 * torch.eye(2, dtype=torch.float64)
    wanted = [(loss(alpha + e) - loss(alpha - e)) / 2e-5 for e in h]
    # truncation h^2 times third derivatives of up to sharpness^3
    assert_close(gradient, torch.tensor(wanted, dtype=torch.float64), rtol=1e-5, atol=1e-7)


def linear_chain() -> tuple[nn.Module, ChannelGraph, tuple[Tensor, Tensor], Tensor]:
    """Without activations the loss is linear in each mask: sampling is then unbiased."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 1)).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    graph = trace(model, x)
    assert graph.sizes.tolist() == [4, 5]
    return model, graph, (x, torch.zeros(6)), torch.rand(9, dtype=torch.float64) + 0.2


def test_straight_through_is_unbiased_where_the_loss_is_linear():
    model, graph, batch, b = linear_chain()
    alpha = torch.tensor([0.5, 0.6], dtype=torch.float64)
    exact = gradient_of(model, graph, alpha, b, batch, task=MEAN)
    generator = torch.Generator().manual_seed(0)
    options = {"estimator": "straight_through", "task": MEAN, "generator": generator}
    draws = torch.stack([gradient_of(model, graph, alpha, b, batch, **options) for _ in range(600)])
    error = draws.std(0) / len(draws) ** 0.5
    assert bool((error > 0).all())
    assert bool(((draws.mean(0) - exact).abs() < 4 * error).all())


@pytest.mark.parametrize("estimator", ["mean_field", "straight_through", "mixed", "relaxed"])
@pytest.mark.parametrize("sharpness", [0.05, 5.0, 200.0])
@pytest.mark.parametrize("kept", [0.5, 1.0])
def test_finite_and_nothing_is_touched(estimator, sharpness, kept):
    model, graph, (x, y), b = toy()
    model.float()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    alpha, batch = torch.full((2,), kept, dtype=torch.float64), (x.float(), y)
    gradient = gradient_of(model, graph, alpha, b, batch, estimator=estimator, sharpness=sharpness)
    assert (gradient.dtype, gradient.shape) == (torch.float64, (2,))
    assert bool(gradient.isfinite().all())
    assert not alpha.requires_grad
    assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert all(p.grad is None for p in model.parameters())
