"""A small network on the digits, and what every loop around a Pruner must leave behind."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems_networks import cbr, chain
from torch import Tensor, nn

from dsa_core.budget import Budget
from dsa_core.dsa import DSA
from dsa_core.lab.data import load
from dsa_core.pruner import Pruner
from dsa_core.surgery.cut import prune
from dsa_core.surgery.verify import count_macs
from dsa_core.training import mode

EXAMPLE = torch.zeros(1, 1, 8, 8)
BUDGET = Budget(macs=0.5)
STEPS = 24
FREE = DSA(ratio_every=2, anneal_fraction=0.5)
X, Y = map(torch.cat, zip(*load("digits").batches("train", batch_size=256).epoch(0), strict=True))
Y = Y % 3  # the head of a toy has three outputs


def network(*, seed: int = 0) -> nn.Sequential:
    """Three convolutions with BatchNorm; all groups as wide, so that uniform is no accident."""
    torch.manual_seed(seed)
    return chain(16, a=cbr(1, 16), b=cbr(16, 16), c=cbr(16, 16))


def without_norms() -> nn.Module:
    """Without BatchNorm, whose statistics would be those of a part of a batch."""
    model = network()
    for block in (model.a, model.b, model.c):
        block[1] = nn.Identity()
    return model


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def batches(n: int, *, size: int = 32, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches number start to start + n, the same in every call."""
    for i in range(start, start + n):
        rows = torch.randperm(len(X), generator=torch.Generator().manual_seed(i))[:size]
        yield X[rows], Y[rows]


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]).float(), batch[1])


def step(
    model: nn.Module, batch: tuple[Tensor, Tensor], *optimizers: torch.optim.Optimizer
) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss_of(model, batch).backward()
    for optimizer in optimizers:
        optimizer.step()


def sgd(model: nn.Module, lr: float = 0.05) -> torch.optim.Optimizer:
    return torch.optim.SGD(trained(model), lr=lr, momentum=0.9, weight_decay=1e-4)


def pruner(model: nn.Module, *, steps: int = STEPS, **settings: object) -> Pruner:
    return Pruner(model, EXAMPLE, BUDGET, steps=steps, **{"method": FREE, **settings})


def started(
    model: nn.Module, make: Callable[[Any], torch.optim.Optimizer] = sgd, **settings: object
) -> tuple[torch.optim.Optimizer, Pruner]:
    """An optimizer of a network, and a pruner that is attached to both."""
    optimizer = make(model)
    return optimizer, pruner(model, **settings).attach(optimizer)


def search(
    found: Pruner,
    called: nn.Module,
    *optimizers: torch.optim.Optimizer,
    steps: int = STEPS,
    take: Callable[..., None] = step,
) -> None:
    """A loop of steps, with an evaluation now and then."""
    for i, batch in enumerate(batches(steps)):
        take(called, batch, *optimizers)
        assert not masked(found.model)
        if i % 8 == 0:
            shows_the_cut(found, called)


def exact(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def values(model: nn.Module) -> dict[str, Tensor]:
    """What the parameters hold now, mask or not."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def masked(model: nn.Module) -> bool:
    """Whether an input slice of a consumer is zero."""
    return any(bool((w.flatten(2).abs().sum((0, 2)) == 0).any()) for w in (
        p.detach() for p in model.parameters() if p.ndim == 4))  # fmt: skip


@torch.no_grad()
def evaluated(model: nn.Module, *inputs: Tensor, **named: Tensor) -> Any:
    with mode(model, training=False):
        return model(*inputs, **named)


def shows_the_cut(found: Pruner, called: nn.Module, x: Tensor = X[:8]) -> None:
    """An evaluation is one of the network as it would be cut now, and leaves no trace."""
    before = values(found.model)
    seen = evaluated(called, x)
    assert same(values(found.model), before)
    cut = prune(found.model, found.graph, found.allocation.keep)
    torch.testing.assert_close(seen, evaluated(cut, x), rtol=1e-4, atol=1e-5)


def macs(model: nn.Module, example: object) -> int:
    with mode(model, training=False):
        return count_macs(model, example)


def ends_well(
    found: Pruner, *, steps: int = STEPS, example: object = EXAMPLE, **how: object
) -> nn.Module:
    """The budget is met within rounding; the weights are exact; the keep ratios have moved."""
    assert found.steps_done == steps
    whole = found.model.state_dict()
    smaller = found.finish(**how)
    assert same(dict(found.model.named_parameters()), {n: whole[n] for n in values(found.model)})
    assert not masked(found.model)
    assert found.allocation.met
    left = macs(smaller, example) / macs(found.model, example)
    asked = found.problem.budget.ratio
    assert asked - 0.06 < left <= asked
    assert found.cost["macs"] == pytest.approx(asked, rel=1e-6)
    ratios = torch.tensor([*found.keep_ratios.values()])
    assert float(ratios.max() - ratios.min()) > 0.02
    return smaller
