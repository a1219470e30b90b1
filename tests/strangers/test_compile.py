"""torch.compile, before and after the Pruner; and activations that are computed twice."""

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
    sgd,
    shows_the_cut,
    started,
    step,
    values,
)
from torch import nn
from torch.utils.checkpoint import checkpoint


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch.compiler.reset()


class Own(nn.Module):
    """A class of the user's own: its hooks run outside of the compiled graph."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x):
        return self.net(x)


def compiled_first(model, called, weights) -> None:
    """It runs, in both modes, before anything is attached."""
    loss_of(called, next(batches(1))).backward()
    evaluated(called, X[:8])
    model.load_state_dict(weights)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("build", [network, Own])
@pytest.mark.parametrize("first", ["pruner", "compile"])
def test_a_compiled_network_is_searched_like_a_plain_one(backend, build, first):
    plain, model = build(), build()
    whole = first == "compile" or build is Own  # hooks inside a compiled container break its graph
    called = torch.compile(model, backend=backend, fullgraph=whole)
    if first == "compile":
        compiled_first(model, called, plain.state_dict())
    optimizer = sgd(model)
    found = pruner(called if first == "compile" else model).attach(optimizer)
    search(found, called, optimizer)
    optimizer, other = started(plain)
    search(other, plain, optimizer)
    assert found.keep_ratios == pytest.approx(other.keep_ratios, rel=1e-3)
    assert type(ends_well(found)) is type(model)
    assert torch.equal(evaluated(called, X[:8]), evaluated(called, X[:8]))
    assert not masked(model)  # compiled code with our hooks in it does nothing any more


def test_a_network_compiled_in_place():
    model = network()
    model.compile(backend="eager")
    optimizer, found = started(model)
    search(found, model, optimizer)
    ends_well(found)
    model(X[:8])
    assert not masked(model)


class Recomputed(nn.Module):
    """The parts of a chain, each computed again in the backward pass."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.net, self.reentrant = network(), reentrant

    def forward(self, x):
        x = x + 0 * self.net.head.bias[0]  # a reentrant part must be given something to follow
        for name, part in self.net.named_children():
            if self.training and name in "abc":
                x = checkpoint(part, x, use_reentrant=self.reentrant)
            else:
                x = part(x)
        return x


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_parts_see_the_mask_of_their_step(reentrant):
    """Even where an evaluation comes between the forward and the backward pass."""
    searches = []
    for model in (network(), Recomputed(reentrant=reentrant)):
        optimizer, found = started(model)
        for batch in batches(STEPS):
            loss = loss_of(model, batch)
            under = values(model)
            shows_the_cut(found, model)
            assert same(values(model), under)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        searches.append([*found.keep_ratios.values()])
    assert searches[0] == pytest.approx(searches[1], rel=1e-3)
    ends_well(found)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_network_that_is_checkpointed_as_a_whole(reentrant):
    model = network()
    optimizer, found = started(model)

    def take(called, batch, optimizer) -> None:
        x = batch[0].clone().requires_grad_()
        step(lambda x: checkpoint(called, x, use_reentrant=reentrant), (x, batch[1]), optimizer)

    search(found, model, optimizer, take=take)
    ends_well(found)
