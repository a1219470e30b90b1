"""Several optimizers, frozen weights, closures that run more than once, averages of the weights."""

import copy
import pickle
from functools import partial

import pytest
import torch
from small_search import (
    STEPS,
    X,
    batches,
    ends_well,
    evaluated,
    exact,
    loss_of,
    masked,
    network,
    pruner,
    same,
    search,
    shows_the_cut,
    started,
    step,
    values,
)
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dsa_core.surgery.cut import prune


def test_two_optimizers_and_a_frozen_layer():
    model = network()
    model.b[0].weight.requires_grad_(False)
    frozen = model.b[0].weight.clone()
    body = torch.optim.SGD([*model.a.parameters(), *model.c.parameters()], lr=0.05)
    rest = torch.optim.Adam([*model.b[1].parameters(), *model.head.parameters()], lr=1e-3)
    found = pruner(model, warmup_steps=2).attach(body, rest)
    search(found, model, body, rest)
    assert model.b[0].weight.grad is None
    ends_well(found)
    assert not model.b[0].weight.requires_grad
    assert torch.equal(model.b[0].weight, frozen)


def test_a_frozen_layer_moves_the_keep_ratios_as_a_trained_one_of_rate_zero():
    """The warm-up's gradients, too, stay out of the mask's."""
    found = []
    for frozen in (False, True):
        model = network()
        layer = model.b[0].weight.requires_grad_(not frozen)
        others = [p for p in model.parameters() if p is not layer]
        groups = [{"params": others}, *([] if frozen else [{"params": [layer], "lr": 0.0}])]
        optimizer = torch.optim.SGD(groups, lr=0.05)
        found.append(pruner(model, warmup_steps=3).attach(optimizer))
        for batch in batches(9):
            step(model, batch, optimizer)
    assert found[1].keep_ratios == pytest.approx(found[0].keep_ratios, rel=1e-6)


def test_lbfgs_calls_its_closure_often_under_one_mask():
    model = network()
    make = partial(torch.optim.LBFGS, lr=0.1, max_iter=3)
    optimizer, found = started(model, lambda m: make(m.parameters()), steps=12)
    dropped = []
    for i, batch in enumerate(batches(12, size=128)):
        here = []

        def closure(batch=batch, here=here):
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            here.append((model.b[0].weight == 0).flatten(2).all(2).all(0))
            loss.backward()
            return loss

        optimizer.step(closure)
        assert len(here) > 1
        assert all(torch.equal(here[0], zeros) for zeros in here)
        assert not masked(model)
        assert found.steps_done == i + 1
        dropped.append(here[0])
        shows_the_cut(found, model)
    assert not torch.equal(dropped[-1], dropped[-2])  # the next step draws another
    ends_well(found, steps=12)


def test_an_average_of_the_weights_can_be_cut():
    model = network()
    optimizer, found = started(model)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for batch in batches(STEPS):
        step(model, batch, optimizer)
        average.update_parameters(model)
        out = average(batch[0])  # in training mode: no mask, and no step of ours
        assert not masked(average)
    assert found.steps_done == STEPS
    smaller = ends_well(found, weights=average.module)
    cut = prune(average.module, found.graph, found.allocation.keep)
    assert torch.equal(evaluated(smaller, X[:8]), evaluated(cut, X[:8]))
    assert out.isfinite().all()


def test_a_copy_or_a_state_dict_under_a_mask_is_exact():
    model = network()
    model.c[0].weight = model.b[0].weight  # one by two names
    model.head.weight.requires_grad_(False)
    optimizer, found = started(model)
    search(found, model, optimizer, steps=15)
    weights, (batch,) = values(model), batches(1)
    loss_of(model, batch).backward()
    assert masked(model)
    state, twin = exact(model), copy.deepcopy(model)
    assert same({name: state[name] for name in weights}, weights)
    assert torch.equal(state["c.0.weight"], weights["b.0.weight"])
    assert same(values(twin), weights)
    assert model.head.weight.requires_grad  # its gradient is needed for that of the mask
    assert not twin.head.weight.requires_grad
    twin(batch[0])
    assert same(values(twin), weights)  # no live hook
    found.detach()
    assert same(values(model), weights)


def test_a_module_that_is_pickled_between_two_steps_takes_no_hook_along():
    model = network()
    optimizer, found = started(model)
    search(found, model, optimizer, steps=15)
    twin = pickle.loads(pickle.dumps(model))
    twin(X[:8])
    assert same(values(twin), values(model))
    assert not found.attachment.open


def test_loaded_weights_are_not_lost_under_a_mask():
    model = network()
    _, found = started(model, steps=2)
    loss_of(model, next(batches(1))).backward()  # and the loop breaks off
    other = network(seed=1)
    model.load_state_dict(other.state_dict())
    found.detach()
    assert same(exact(model), exact(other))


def test_a_backward_pass_through_a_finished_step_is_refused():
    model = network()
    _, found = started(model)
    loss = loss_of(model, next(batches(1)))
    loss.backward(retain_graph=True)
    found.collect()
    with pytest.raises(RuntimeError, match="inplace operation"):
        loss.backward()
