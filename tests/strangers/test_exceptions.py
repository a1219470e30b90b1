"""Wherever the user's loop breaks off, the exact weights come back."""

import pytest
import torch
from small_search import (
    BUDGET,
    EXAMPLE,
    X,
    batches,
    loss_of,
    network,
    same,
    search,
    sgd,
    started,
    values,
)
from torch import nn

from dsa_core.pruner import Pruner


class BrokenError(Exception):
    pass


def fail(*_: object) -> None:
    raise BrokenError


def in_forward(model, batch) -> None:
    handle = model.c.register_forward_hook(fail)
    try:
        model(batch[0])
    finally:
        handle.remove()


def in_backward(model, batch) -> None:
    loss = loss_of(model, batch)
    handle = model.a[0].weight.register_hook(fail)
    try:
        loss.backward()
    finally:
        handle.remove()


def before_the_step(model, batch) -> None:
    loss_of(model, batch).backward()
    fail()


def in_evaluation(model, batch) -> None:
    loss_of(model, batch).backward()
    model.eval()
    try:
        in_forward(model, batch)
    finally:
        model.train()


@pytest.mark.parametrize("breaks", [in_forward, in_backward, before_the_step, in_evaluation])
@pytest.mark.parametrize("goes_on", [False, True])
def test_the_exact_weights_come_back(breaks, goes_on):
    model = network()
    optimizer, found = started(model)
    search(found, model, optimizer, steps=14)
    weights, (batch,) = values(model), batches(1)
    with pytest.raises(BrokenError):
        breaks(model, batch)
    if goes_on:
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        under = values(model)
        optimizer.param_groups[0]["lr"] = 0.0
        optimizer.step()
        assert not same(under, weights)
    else:
        found.detach()
    assert same(values(model), weights)
    assert found.steps_done == 14 + goes_on


def test_an_evaluation_that_fails_leaves_the_mask_of_the_step():
    model = network()
    _, found = started(model, steps=2)
    loss_of(model, next(batches(1)))
    under = values(model)
    with pytest.raises(BrokenError):
        in_evaluation(model, (X[:4], X[:4, 0, 0, 0].long()))
    assert same(values(model), under)
    found.detach()


def test_a_network_can_be_exported_while_it_is_searched():
    model = network()
    _, found = started(model, steps=2)
    loss_of(model, next(batches(1)))
    under = values(model)
    exported = torch.export.export(model.eval(), (EXAMPLE,), strict=False)
    assert same(values(model), under)
    found.detach()
    torch.testing.assert_close(exported.module()(X[:1]), model(X[:1]))


def test_a_backward_pass_through_other_weights_is_refused():
    model, (x, y) = network(), next(batches(1))
    optimizer, found = started(model, steps=4)
    search(found, model, optimizer, steps=2)
    optimizer.zero_grad()
    loss = loss_of(model.eval(), (x.requires_grad_(), y))  # as an attack in evaluation mode
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    model.train()
    early = model.b(model.a(x)).square().mean()  # before the network draws a mask
    late = loss_of(model, (x, y)) + model.b(model.a(x)).square().mean()
    late.backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        early.backward()
    optimizer.step()
    found.detach()


def test_groups_that_no_gradient_comes_to_are_told():
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = network(), nn.Linear(3, 3)

        def forward(self, x):
            with torch.no_grad():
                x = self.body(x)
            return self.head(x)

    model = Frozen()
    found = Pruner(model, EXAMPLE, BUDGET, steps=30).attach(sgd(model))
    with pytest.warns(UserWarning, match=r"no gradient has come to body\.a.* \(\d of \d groups\)"):
        search(found, model, found.attachment.optimizers[0], steps=30)
