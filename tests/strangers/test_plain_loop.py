"""The loop of every tutorial, with what people add to it: accumulation, clipping, AdamW."""

import pytest
import torch
from small_search import (
    EXAMPLE,
    STEPS,
    batches,
    ends_well,
    evaluated,
    loss_of,
    masked,
    network,
    pruner,
    same,
    sgd,
    shows_the_cut,
    values,
)
from torch import nn


@pytest.mark.parametrize("make", [sgd, lambda m: torch.optim.AdamW(m.parameters(), lr=3e-3)])
def test_a_plain_loop(make):
    model = network()
    optimizer = make(model)
    found = pruner(model).attach(optimizer)
    for i, batch in enumerate(batches(STEPS)):
        loss = loss_of(model, batch)
        assert masked(model) or i < 4  # nothing is dropped before the budget falls
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert not masked(model)
        if i % 8 == 0:
            shows_the_cut(found, model)
    ends_well(found)


def test_a_loop_that_goes_on_after_the_search_and_evaluates_in_inference_mode():
    model = network()
    optimizer = sgd(model)
    found = pruner(model, steps=8).attach(optimizer)
    for batch in batches(12):
        loss = loss_of(model, batch)
        with torch.inference_mode():  # before the backward pass
            seen = evaluated(model, batch[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert seen.isfinite().all()
    ends_well(found, steps=12)


def without_statistics() -> nn.Module:
    """BatchNorm sees one part of a batch at a time: here there is none."""
    model = network()
    for block in (model.a, model.b, model.c):
        block[1] = nn.Identity()
    return model


def test_accumulated_gradients_are_those_of_one_big_batch():
    one, two = without_statistics(), without_statistics()
    slow, fast = sgd(one), sgd(two)
    parts, whole = pruner(one, seed=3).attach(slow), pruner(two, seed=3).attach(fast)
    for x, y in batches(8):
        slow.zero_grad(), fast.zero_grad()
        held = []
        for rows in (slice(0, 16), slice(16, None)):
            (loss_of(one, (x[rows], y[rows])) / 2).backward()
            held.append(values(one))
        assert same(*held)  # the mask stays
        shows_the_cut(parts, one)
        assert same(values(one), held[0])
        loss_of(two, (x, y)).backward()
        for p, q in zip(one.parameters(), two.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5)
        slow.step(), fast.step()
    assert parts.keep_ratios == pytest.approx(whole.keep_ratios, abs=1e-3)
    assert parts.steps_done == whole.steps_done == 8


@pytest.mark.parametrize("early", [False, True])
def test_clipping_before_or_after_the_gradients_are_turned(early):
    model = network()
    optimizer = sgd(model, lr=0.2)
    found = pruner(model).attach(optimizer)
    for batch in batches(STEPS):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        if early:
            found.collect()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
        assert float(norm) <= 0.5 + 1e-5
        shows_the_cut(found, model)
    ends_well(found)


def test_a_network_that_changes_its_number_format_after_attach():
    model = network()
    optimizer = sgd(model)
    found = pruner(model).attach(optimizer)
    model.double()
    for x, y in batches(STEPS):
        loss = loss_of(model, (x.double(), y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert not masked(model)
    found.detach()
    assert next(model.parameters()).dtype == torch.float64
    assert found.finish().head.weight.dtype == torch.float64


def test_steps_of_a_network_that_nobody_calls_are_noticed():
    model, other = network(), network()
    optimizer = sgd(model)
    pruner(model).attach(optimizer)
    for _ in range(19):
        optimizer.step()
    other(EXAMPLE)
    with pytest.warns(UserWarning, match="without a forward pass"):
        optimizer.step()
