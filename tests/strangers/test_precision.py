"""Autocast and gradient scalers, as far as a CPU has them."""

from functools import partial

import pytest
import torch
from small_search import (
    STEPS,
    X,
    batches,
    ends_well,
    evaluated,
    loss_of,
    masked,
    network,
    pruner,
    same,
    search,
    shows_the_cut,
    started,
    trained,
    values,
)
from torch import Tensor

from dsa_core.methods import SSL
from dsa_core.surgery.cut import prune


def adamw(*, fused: bool):
    return lambda model: torch.optim.AdamW(model.parameters(), lr=3e-3, fused=fused)


def scaled_step(model, batch, *optimizers, scaler, dtype=torch.bfloat16, times=1.0) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad()
    with torch.autocast("cpu", dtype=dtype):
        loss = loss_of(model, batch) * times
    scaler.scale(loss).backward()
    for optimizer in optimizers:
        scaler.step(optimizer)
    scaler.update()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fused", [False, True])
def test_autocast_with_a_scaler(dtype, fused):
    model = network()
    optimizer, found = started(model, adamw(fused=fused))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    search(found, model, optimizer, take=partial(scaled_step, scaler=scaler, dtype=dtype))
    ends_well(found)


def test_an_evaluation_under_autocast_is_of_the_cut_network_too():
    model = network()
    optimizer, found = started(model)
    for batch in batches(STEPS):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, batch)
            evaluated(model, X[:8])  # between forward and backward, one cast cache
        loss.backward()
        optimizer.step()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = evaluated(model, X[:8])
        cut = prune(model, found.graph, found.allocation.keep)
        torch.testing.assert_close(seen, evaluated(cut, X[:8]), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_scaler_skips_leaves_nothing_masked(fused):
    model = network()
    optimizer, found = started(model, adamw(fused=fused))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    take = partial(scaled_step, scaler=scaler)
    search(found, model, optimizer, steps=14, take=take)
    weights, ratios, (batch,) = values(model), found.keep_ratios, batches(1)
    take(model, batch, optimizer, times=float("inf"))
    assert scaler.get_scale() == 512.0  # it did skip
    assert found.steps_done == 14
    assert found.keep_ratios == ratios
    shows_the_cut(found, model)
    under = values(model)
    assert not same(under, weights)
    take(model, batch, optimizer)
    assert found.steps_done == 15
    assert not masked(model)
    take(model, batch, optimizer, times=float("inf"))
    weights = {name: value for name, value in model.state_dict().items() if name in weights}
    found.detach()
    assert same(values(model), weights)


def slopes(*, scaled: bool, fused: bool, frozen: bool, two: bool, skip: bool) -> Tensor:
    """What every step of a search learns of its mask, with the loss scaled or as it is."""
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, enabled=scaled)
    model = network()
    model.b[0].weight.requires_grad_(not frozen)
    weights = trained(model)
    parts = [weights[:6], weights[6:]] if two else [weights]  # each has consumers of channels
    optimizers = [torch.optim.Adam(part, lr=1e-3, fused=fused) for part in parts]
    found = pruner(model).attach(*optimizers, scaler=scaler)
    seen, step = [], found.scheme.step
    found.scheme.step = lambda i, slope, lr: seen.append(slope.clone()) or step(i, slope, lr)
    for i, batch in enumerate(batches(6)):
        scaled_step(model, batch, *optimizers, scaler=scaler)
        if skip and i == 3 and scaled:
            scaled_step(model, batch, *optimizers, scaler=scaler, times=float("inf"))
    return torch.stack(seen)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(("frozen", "two"), [(False, False), (True, False), (False, True)])
def test_a_scaled_loss_teaches_what_the_loss_does(fused, frozen, two, skip):
    ways = {"fused": fused, "frozen": frozen, "two": two, "skip": skip}
    plain = slopes(scaled=False, **ways)
    torch.testing.assert_close(slopes(scaled=True, **ways), plain, rtol=1e-3, atol=1e-6)
    assert plain.shape[0] == 6
    assert plain.abs().max() > 1e-3


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("two", [False, True])
def test_a_penalty_weighs_as_much_beside_a_scaled_loss(fused, two):
    ends = []
    for scaled in (False, True):
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0, enabled=scaled)
        model = network()
        weights = trained(model)
        parts = [weights[:6], weights[6:]] if two else [weights]
        optimizers = [torch.optim.SGD(part, lr=0.1, fused=fused) for part in parts]
        method = SSL(strength=5.0, path_length=10.0)
        pruner(model, method=method).attach(*optimizers, scaler=scaler)
        for batch in batches(6):
            scaled_step(model, batch, *optimizers, scaler=scaler, times=0.0)
        ends.append(torch.stack([p.detach().norm() for p in weights]))
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)
    assert ends[0].sum() < 0.9 * torch.stack([p.detach().norm() for p in trained(network())]).sum()
