"""The gradient of the loss with respect to the keep ratios, against finite differences."""

import itertools
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from course.gradient import ratio_gradient
from problems_runs import PLAIN, TASK, digits, graph8, search_config, trained
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.func import functional_call
from torch.testing import assert_close

from dsa_core.budget import Budget, Cost, prices, uniform_ratio
from dsa_core.channels import ChannelGraph
from dsa_core.lab import data
from dsa_core.lab.data import Task
from dsa_core.lab.models.resnet import resnet
from dsa_core.masks import estimator_mask, keep_probs, masked_parameters, sample_mask, top_channels
from dsa_core.methods import ALLOCATORS, SearchData
from dsa_core.ranking import importance
from dsa_core.tracing import trace
from dsa_core.training import FP32, TrainConfig, train

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
    settings = {"sharpness": 4.0, "precision": FP32} | changes
    return ratio_gradient(model, graph, alpha, b, batch, task=task, estimator=estimator, **settings)


# ------------------------------------------------------------------ exact


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

    gradient, value = gradient_of(model, graph, alpha, b, (x, y), sharpness=sharpness)
    h = 1e-5 * torch.eye(2, dtype=torch.float64)
    wanted = [(loss(alpha + e) - loss(alpha - e)) / 2e-5 for e in h]
    # truncation h^2 times third derivatives of up to sharpness^3
    assert_close(gradient, torch.tensor(wanted, dtype=torch.float64), rtol=1e-5, atol=1e-7)
    assert float(value) == pytest.approx(loss(alpha), rel=1e-12)


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
    exact, _ = gradient_of(model, graph, alpha, b, batch, task=MEAN)
    generator = torch.Generator().manual_seed(0)
    options = {"estimator": "straight_through", "task": MEAN, "generator": generator}
    draws = torch.stack(
        [gradient_of(model, graph, alpha, b, batch, **options)[0] for _ in range(600)]
    )
    error = draws.std(0) / len(draws) ** 0.5
    assert bool((error > 0).all())
    assert bool(((draws.mean(0) - exact).abs() < 4 * error).all())


def test_straight_through_uses_one_sample():
    model, graph, batch, b = linear_chain()
    alpha = torch.tensor([0.5, 0.6], dtype=torch.float64)
    p = keep_probs(b, alpha, graph, sharpness=4.0).requires_grad_()
    m = sample_mask(p, torch.Generator().manual_seed(7))
    options = {"estimator": "straight_through", "task": MEAN}
    _, loss = gradient_of(
        model, graph, alpha, b, batch, generator=torch.Generator().manual_seed(7), **options
    )
    a, second, head = model
    by_hand = head(second(a(batch[0]) * m[:4]) * m[4:]).mean()
    assert float(loss) == pytest.approx(by_hand.item(), rel=1e-12)


@pytest.mark.parametrize("estimator", ["mean_field", "straight_through", "mixed", "relaxed"])
def test_weights_and_statistics_are_not_touched(estimator):
    model, graph = trained().train(), graph8()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x, y = next(digits().batches("train", batch_size=64).epoch(0))
    alpha = torch.full((6,), 0.5, dtype=torch.float64)
    gradient, loss = gradient_of(
        model, graph, alpha, importance(model, graph), (x, y), estimator=estimator
    )
    assert (gradient.dtype, gradient.shape, loss.shape) == (torch.float64, (6,), ())
    assert bool(gradient.isfinite().all())
    assert not loss.requires_grad
    assert not alpha.requires_grad
    assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("estimator", ["mean_field", "straight_through", "mixed", "relaxed"])
@pytest.mark.parametrize("sharpness", [0.05, 5.0, 200.0])
def test_finite_at_the_dense_network(estimator, sharpness):
    model, graph, batch, b = toy()
    alpha = torch.ones(2, dtype=torch.float64)
    gradient, loss = gradient_of(
        model, graph, alpha, b, batch, estimator=estimator, sharpness=sharpness
    )
    assert bool(gradient.isfinite().all())
    plain = TASK.loss(model(batch[0]), batch[1])
    assert float(loss) == pytest.approx(plain.item(), rel=1e-9)  # every channel is kept


# ------------------------------------------------------------------ where the mask acts
#
# A network of three stages of two blocks (9 groups) learns the digits, then trains under masks at
# uniform keep ratios, 35 % of the MACs. Truth: the price of each group by finite differences, one
# eighth of its channels more or less kept, hard top-k masks. Sharpness 20, all estimates over the
# same 400 examples. Spearman's correlation with the truth over the groups, mean of three seeds:
# mean field at the consumers .66, straight-through at the consumers .81, straight-through between
# BatchNorm and ReLU .41.

RATIO, SHARPNESS, SEEDS = 0.35, 20.0, (0, 1, 2)


@dataclass(frozen=True)
class Prices:
    """Of every group, by three estimates; and the gradient of dropped channels before the ReLU."""

    truth: Tensor
    mean_field: Tensor
    straight_through: Tensor
    before_relu: Tensor
    dropped_before_relu: float
    dropped_at_consumers: float


def network_under_masks(seed: int) -> tuple[nn.Module, ChannelGraph, Tensor, list]:
    """Trained, then trained under uniform masks; model, graph, ratios and batches to look at."""
    torch.manual_seed(seed)
    model = resnet((2, 2, 2), (8, 16, 32), in_channels=1)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    weights, ratios = data.split(1437, 0.7, seed)
    some = {"batch_size": 64, "drop_last": True}
    batches = digits().batches("train", indices=weights, seed=seed, **some)
    dense = TrainConfig(epochs=3, lr=0.1, batch_size=64, **PLAIN)
    train(model, batches, TASK, dense, seed=seed, progress=False)
    graph = trace(model, torch.zeros(1, 1, 8, 8))
    search = SearchData(
        digits().batches("train", indices=weights, seed=seed + 1, **some),
        digits().batches("train", indices=ratios, seed=seed + 2, **some),
        TASK,
        progress=False,
    )
    config = search_config(epochs=6, lr=0.05)
    ALLOCATORS["uniform"](model, graph, Budget(macs=RATIO), search, config, seed=seed)
    form = Cost.of(graph, "macs").relative
    alpha = uniform_ratio(form, RATIO, 1 / graph.sizes.double())
    look = digits().batches(
        "train", indices=ratios, batch_size=400, augment="none", seed=9, drop_last=True
    )
    return model.train(), graph, alpha, [*look.epoch(0), *look.epoch(1)]


def loss_under(model: nn.Module, graph: ChannelGraph, mask: Tensor, batches: list) -> float:
    parameters = dict(model.named_parameters())
    masked = masked_parameters(parameters, graph, mask)
    with torch.no_grad():
        losses = [
            TASK.loss(functional_call(model, parameters | masked | buffers(model), (x,)), y)
            for x, y in batches
        ]
    return float(sum(losses)) / len(losses)


def buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.named_buffers()}


def by_finite_differences(model, graph, alpha, b, batches) -> Tensor:
    """dL/dalpha by one eighth of each group more or less, under hard masks."""
    sizes = graph.sizes.double()
    counts, slopes = (alpha * sizes).round().clamp_min(1), []
    for k, size in enumerate(sizes):
        step = max(1, round(float(size) / 8))
        more, less = counts.clone(), counts.clone()
        more[k], less[k] = min(size, counts[k] + step), max(1, counts[k] - step)
        up, down = (
            loss_under(model, graph, top_channels(b, c.long(), graph).float(), batches)
            for c in (more, less)
        )
        slopes.append((up - down) / float((more[k] - less[k]) / size))
    return torch.tensor(slopes, dtype=torch.float64)


def before_the_relu(model, graph, alpha, b, batch, generator) -> tuple[Tensor, Tensor, Tensor]:
    """As the authors' released code: every BatchNorm's output times its mask, straight-through.

    Returns dL/dalpha, dL/dmask and the mask.
    """
    alpha = alpha.clone().requires_grad_()
    p = keep_probs(b, alpha, graph, sharpness=SHARPNESS)
    mask = estimator_mask(p, "straight_through", generator=generator)
    extended = torch.cat([mask, mask.new_ones(1)])
    modules, hooks = dict(model.named_modules()), []
    for norm in graph.norms:
        here = extended[norm.channels].view(1, -1, 1, 1)
        module = modules[norm.weight.removesuffix(".weight")]
        hooks.append(module.register_forward_hook(lambda _m, _x, out, here=here: out * here))
    loss = TASK.loss(functional_call(model, buffers(model), (batch[0],)), batch[1])
    for hook in hooks:
        hook.remove()
    gradient, to_mask = torch.autograd.grad(loss, (alpha, mask))
    return gradient, to_mask, mask.detach()


def gradient_to_mask(model, graph, mask, batch) -> Tensor:
    """dL/dmask with the mask at the consumers."""
    mask = mask.clone().requires_grad_()
    parameters = dict(model.named_parameters())
    state = parameters | masked_parameters(parameters, graph, mask) | buffers(model)
    loss = TASK.loss(functional_call(model, state, (batch[0],)), batch[1])
    return torch.autograd.grad(loss, mask)[0]


@cache
def measured(seed: int) -> Prices:
    model, graph, alpha, batches = network_under_masks(seed)
    b, form = importance(model, graph), Cost.of(graph, "macs").relative
    generator = torch.Generator().manual_seed(0)
    many = list(itertools.islice(itertools.cycle(batches), 24))

    def mean(estimator: str, some: list) -> Tensor:
        options = {"estimator": estimator, "sharpness": SHARPNESS, "generator": generator}
        all_of_them = [gradient_of(model, graph, alpha, b, x, **options)[0] for x in some]
        return prices(torch.stack(all_of_them).mean(0), form, alpha)

    placed = [before_the_relu(model, graph, alpha, b, batch, generator) for batch in many]
    _, to_mask, mask = placed[0]
    after = gradient_to_mask(model, graph, mask, many[0])
    return Prices(
        truth=prices(by_finite_differences(model, graph, alpha, b, batches), form, alpha),
        mean_field=mean("mean_field", batches),
        straight_through=mean("straight_through", many),
        before_relu=prices(torch.stack([g for g, _, _ in placed]).mean(0), form, alpha),
        dropped_before_relu=float(to_mask[mask == 0].abs().max()),
        dropped_at_consumers=float((after[mask == 0] != 0).double().mean()),
    )


def correlation(kind: str) -> float:
    """Spearman's, with finite differences, mean over seeds."""
    pairs = [(getattr(measured(seed), kind), measured(seed).truth) for seed in SEEDS]
    return sum(float(spearmanr(a, b)[0]) for a, b in pairs) / len(pairs)


@pytest.mark.slow
def test_prices_at_the_consumers_follow_the_truth_and_before_the_relu_do_not():
    mean_field, straight, before = map(
        correlation, ("mean_field", "straight_through", "before_relu")
    )
    print(f"mean field {mean_field:.2f}, straight-through {straight:.2f}, before ReLU {before:.2f}")
    assert mean_field > 0.4
    assert straight > 0.6
    assert before < straight - 0.2


@pytest.mark.slow
def test_a_dropped_channel_has_a_price_only_at_the_consumers():
    for seed in SEEDS:
        assert measured(seed).dropped_before_relu == 0.0  # ReLU'(0) = 0
        assert measured(seed).dropped_at_consumers > 0.9  # but for those that are dead anyway
        size = (
            measured(seed).before_relu.abs().mean() / measured(seed).straight_through.abs().mean()
        )
        assert float(size) < 0.5
