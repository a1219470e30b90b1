"""A search that was killed goes on to the same bits."""

import io

import pytest
import torch
from small_search import (
    BUDGET,
    EXAMPLE,
    batches,
    ends_well,
    exact,
    loss_of,
    network,
    same,
    sgd,
)

from dsa_core.budget import Budget
from dsa_core.dsa import DSA
from dsa_core.errors import ConfigError
from dsa_core.methods import Uniform
from dsa_core.pruner import Pruner


class Search:
    """A model, its optimizer, the pruner, and the loop."""

    def __init__(self, *, seed: int) -> None:
        self.model = network(seed=seed)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3)
        method = DSA(ratio_every=3, anneal_fraction=0.5)
        self.pruner = Pruner(self.model, EXAMPLE, BUDGET, steps=20, method=method, seed=5)
        self.pruner.attach(self.optimizer)

    def run(self, first: int, last: int) -> None:
        for batch in batches(last - first, start=first):
            self.optimizer.zero_grad()
            loss_of(self.model, batch).backward()
            self.optimizer.step()

    def save(self) -> bytes:
        file = io.BytesIO()
        torch.save([part.state_dict() for part in (self.model, self.optimizer, self.pruner)], file)
        return file.getvalue()

    def load(self, saved: bytes) -> None:
        states = torch.load(io.BytesIO(saved), weights_only=True)
        for part, state in zip((self.model, self.optimizer, self.pruner), states, strict=True):
            part.load_state_dict(state)


@pytest.mark.parametrize("step", [2, 11, 13])  # between two updates of the keep ratios
def test_to_the_same_bits(step):
    whole, killed, resumed = Search(seed=0), Search(seed=0), Search(seed=1)
    whole.run(0, 20)
    killed.run(0, step)
    resumed.load(killed.save())
    resumed.run(step, 20)
    assert same(exact(resumed.model), exact(whole.model))
    assert resumed.pruner.keep_ratios == whole.pruner.keep_ratios
    assert resumed.pruner.history == whole.pruner.history
    assert same(resumed.pruner.dense, whole.pruner.dense)
    one, two = ends_well(resumed.pruner, steps=20), ends_well(whole.pruner, steps=20)
    assert same(exact(one), exact(two))
    assert same(exact(resumed.pruner.finish(weights="dense")), exact(
        whole.pruner.finish(weights="dense")))  # fmt: skip


def test_a_search_resumed_without_what_was_gathered_would_differ():
    """The state in the middle of the three steps is not empty."""
    whole, killed, resumed = Search(seed=0), Search(seed=0), Search(seed=1)
    whole.run(0, 20)
    killed.run(0, 11)
    resumed.load(killed.save())
    resumed.pruner.scheme.total.zero_()
    resumed.run(11, 20)
    assert resumed.pruner.keep_ratios != whole.pruner.keep_ratios


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"budget": Budget(macs=0.4)}, "budget was"),
        ({"steps": 21}, "steps was"),
        ({"seed": 6}, "mask seed was"),
        ({"method": Uniform()}, "method was"),
    ],
)
def test_the_state_of_another_search_is_refused(change, word):
    state = Search(seed=0).pruner.state_dict()
    settings = {
        "budget": BUDGET, "steps": 20, "seed": 5, "method": DSA(ratio_every=3, anneal_fraction=0.5),
        **change,
    }  # fmt: skip
    model = network()
    other = Pruner(model, EXAMPLE, settings.pop("budget"), **settings).attach(sgd(model))
    with pytest.raises(ConfigError, match=word):
        other.load_state_dict(state)
    with pytest.raises(ConfigError, match="wanted what Pruner"):
        other.load_state_dict({"model": {}})
