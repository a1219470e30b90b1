"""Autocast and gradient scalers, as far as a CPU has them."""

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
    sgd,
    shows_the_cut,
    values,
)

from dsa_core.surgery.cut import prune


def scaled_step(model, batch, scaler, *optimizers, dtype=torch.bfloat16, times=1.0) -> None:
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
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    found = pruner(model).attach(optimizer)
    for i, batch in enumerate(batches(STEPS)):
        scaled_step(model, batch, scaler, optimizer, dtype=dtype)
        if i % 8 == 0:
            shows_the_cut(found, model)
    ends_well(found)


def test_an_evaluation_under_autocast_is_of_the_cut_network_too():
    model = network()
    optimizer = sgd(model)
    found = pruner(model).attach(optimizer)
    for batch in batches(STEPS):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, batch)
            seen = evaluated(model, X[:8])  # between forward and backward, one cast cache
        loss.backward()
        optimizer.step()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = evaluated(model, X[:8])
        cut = prune(model, found.graph, found.allocation.keep)
        torch.testing.assert_close(seen, evaluated(cut, X[:8]), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_scaler_skips_leaves_nothing_masked(fused):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    found = pruner(model).attach(optimizer)
    for batch in batches(14):
        scaled_step(model, batch, scaler, optimizer)
    weights, ratios = values(model), found.keep_ratios
    scaled_step(model, batch, scaler, optimizer, times=float("inf"))
    assert scaler.get_scale() == 512.0  # it did skip
    assert found.steps_done == 14
    assert found.keep_ratios == ratios
    shows_the_cut(found, model)
    under = values(model)
    assert not same(under, weights)
    scaled_step(model, batch, scaler, optimizer)
    assert found.steps_done == 15
    assert not masked(model)
    scaled_step(model, batch, scaler, optimizer, times=float("inf"))
    weights = {name: value for name, value in model.state_dict().items() if name in weights}
    found.detach()
    assert same(values(model), weights)


def ratios(scaler: torch.amp.GradScaler, *, fused: bool, frozen: bool, two: bool, skip: bool):
    """The keep ratios of a search whose losses are scaled, in one of many ways."""
    model = network()
    if frozen:
        model.b[0].weight.requires_grad_(False)
    weights = [p for p in model.parameters() if p.requires_grad]
    parts = [weights[:3], weights[3:]] if two else [weights]
    optimizers = [torch.optim.Adam(part, lr=1e-3, fused=fused) for part in parts]
    found = pruner(model).attach(*optimizers, scaler=scaler)
    for i, batch in enumerate(batches(8)):
        scaled_step(model, batch, scaler, *optimizers)
        if skip and i == 4 and scaler.is_enabled():
            scaled_step(model, batch, scaler, *optimizers, times=float("inf"))
            scaler.update(256.0)
    return found.keep_ratios


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(("frozen", "two"), [(False, False), (True, False), (False, True)])
def test_a_scaled_loss_gives_the_keep_ratios_of_the_loss(fused, frozen, two, skip):
    scaled = ratios(
        torch.amp.GradScaler("cpu", init_scale=256.0), fused=fused, frozen=frozen, two=two,
        skip=skip,
    )  # fmt: skip
    plain = ratios(
        torch.amp.GradScaler("cpu", enabled=False), fused=fused, frozen=frozen, two=two, skip=skip
    )
    assert scaled == pytest.approx(plain, rel=1e-5)
    assert max(scaled.values()) - min(scaled.values()) > 1e-3
