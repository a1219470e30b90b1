"""What cannot work is refused at the door, with what to do instead."""

import pytest
import torch
from small_search import (
    BUDGET,
    EXAMPLE,
    batches,
    loss_of,
    network,
    pruner,
    same,
    sgd,
    started,
    step,
    values,
)
from torch import nn

from dsa_core.budget import Budget
from dsa_core.errors import BudgetError, ConfigError, DSAError
from dsa_core.masks import masked
from dsa_core.methods import Uniform
from dsa_core.pruner import Pruner
from dsa_core.tracing import trace


def made(**changes: object) -> Pruner:
    given = {"model": network(), "example": EXAMPLE, "budget": BUDGET, "steps": 10, **changes}
    return Pruner(given.pop("model"), given.pop("example"), given.pop("budget"), **given)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model": "resnet20"}, "model: wanted a torch.nn.Module, got str"),
        ({"steps": 0}, "steps: wanted a whole number >= 1, got 0"),
        ({"steps": 10.5}, "steps: wanted a whole number >= 1, got 10.5"),
        ({"steps": True}, "steps: wanted"),
        ({"warmup_steps": 10}, "leaves no step to search in"),
        ({"method": "dsa"}, "method: wanted settings such as dsa.DSA"),
        ({"budget": 0.5}, "Budget.*macs=0.5"),
        ({"budget": "macs=0.5"}, "Budget.*macs=0.5"),
        ({"budget": None}, "Budget.*macs=0.5"),
    ],
)
def test_wrong_arguments(changes, word):
    with pytest.raises(DSAError, match=word):
        made(**changes)


def test_a_network_of_which_nothing_can_be_removed():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(ConfigError, match=r"no channel of it can be removed; graph\.report\(\)"):
        made(model=model)
    graph = trace(model, EXAMPLE)
    with masked(model, graph, torch.ones(0)):
        assert model(EXAMPLE).shape == (1, 3)


def test_a_budget_below_the_floors():
    with pytest.raises(BudgetError, match=r"cannot be reached.*Ask for 0\.\d+ or more"):
        made(budget=Budget(macs=1e-4))


def test_the_graph_of_another_network():
    other = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    with pytest.raises(DSAError, match="not the one that was traced"):
        made(example=trace(other, EXAMPLE))


def test_the_right_graph_is_taken_as_it_is():
    model = network()
    graph = trace(model, EXAMPLE)
    assert made(model=model, example=graph).graph is graph


@pytest.mark.parametrize(
    ("give", "word"),
    [
        (lambda m: [sgd(network())], "holds no parameter of the network"),
        (lambda m: [sgd(m), sgd(network())], "holds no parameter of the network"),
        (lambda m: [m], "wanted torch optimizers, got Sequential"),
        (lambda m: [], "none of the 0 optimizers"),
        (lambda m: [sgd(m.head)], "is in none of the 1 optimizers"),
    ],
)
def test_optimizers_of_something_else(give, word):
    model = network()
    found = pruner(model)
    with pytest.raises(ConfigError, match=word):
        found.attach(*give(model))
    assert not model._forward_pre_hooks
    assert found.attach(sgd(model))


def test_two_pruners_do_not_hold_one_network():
    model = network()
    optimizer, first = started(model)
    for other in (lambda: first.attach(optimizer), lambda: pruner(model)):
        with pytest.raises(ConfigError, match="attached to this network already"):
            other()
    first.detach()
    assert pruner(model).attach(optimizer)


def test_weights_that_were_never_kept():
    found = pruner(network())
    with pytest.raises(ConfigError, match="'searched', 'dense'"):
        found.finish(weights="dense")


def test_a_gradient_that_is_not_finite():
    model = network()
    optimizer, found = started(model)
    ratios, before = found.keep_ratios, values(model)
    (model(torch.rand(8, 1, 8, 8)).sum() * float("nan")).backward()
    with pytest.raises(DSAError, match="step 0: the gradient is not finite"):
        optimizer.step()
    assert found.keep_ratios == ratios
    assert same(values(model), before)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"budget": Budget(macs=0.4)}, "budget was"),
        ({"steps": 11}, "steps was"),
        ({"seed": 1}, "mask seed was"),
        ({"method": Uniform()}, "method was"),
    ],
)
def test_the_state_of_another_search_is_refused(change, word):
    state, model = made(model=network()).state_dict(), network()
    other = made(model=model, **change).attach(sgd(model))
    with pytest.raises(ConfigError, match=word):
        other.load_state_dict(state)
    with pytest.raises(ConfigError, match="wanted what Pruner"):
        other.load_state_dict({"model": {}})


def test_copies_on_several_devices_are_refused():
    model = nn.DataParallel(network())
    made(model=model)
    model.device_ids = [0, 1]
    with pytest.raises(ConfigError, match=r"copies the weights .* DistributedDataParallel"):
        made(model=model)


def test_gradients_under_a_mask_rank_nothing():
    model = network()
    optimizer, found = started(model, steps=1)
    step(model, next(batches(1)), optimizer)
    with pytest.raises(ConfigError, match=r"needs gradients of the unmasked network.*detach\(\)"):
        found.finish(rank="taylor")
    found.detach()
    optimizer.zero_grad()
    loss_of(model, next(batches(1))).backward()
    assert values(found.finish(rank="taylor"))
