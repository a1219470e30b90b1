"""Every method runs in a stranger's loop, ends on its budget, and goes on from a state."""

import copy
import io
from typing import Any

import pytest
import torch
from problems_networks import cbr
from problems_runs import search_config
from torch import Tensor, nn

from dsa_core.budget import Budget
from dsa_core.dsa import DSA
from dsa_core.errors import ConfigError, TrainingError
from dsa_core.methods import DCSS, DTP, METHODS, SSL, DTPWeight, MorphNet
from dsa_core.pruner import Pruner
from dsa_core.ranking import importance
from dsa_core.scheme import Method
from dsa_core.surgery import prune
from dsa_core.surgery.sparse import zero_weights

STEPS = 24
MACS, PARAMS = Budget(macs=0.5), Budget(params=0.4)
# Each update lands on the falling budget, and the cut uses 85 % of it: the two groups are coarse,
# so a method may ask for another ratio.
FALLING: dict[str, tuple[Method, Budget]] = {
    "dsa": (DSA(ratio_every=2, anneal_fraction=0.5), MACS),
    "dcss": (DCSS(), MACS),
    "dcss held out": (DCSS(estimator="held_out"), MACS),
    "dtp": (DTP(), MACS),
    "dtp proximal": (DTP(plan="proximal"), MACS),
    "dtp-weight": (DTPWeight(), PARAMS),
    "knapsack": (METHODS["knapsack"](), Budget(macs=0.4)),
    "random": (METHODS["random"](), MACS),
    "uniform": (METHODS["uniform"](), MACS),
}
PENALISED: dict[str, tuple[Method, Budget]] = {
    "ssl": (SSL(strength=8.0), MACS),
    "morphnet": (MorphNet(strength=8.0), MACS),
}


def test_every_method_is_here():
    assert {name.split()[0] for name in FALLING | PENALISED} == set(METHODS)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(*cbr(1, 8), *cbr(8, 12), nn.Flatten(), nn.Linear(12 * 36, 3))


class Loop:
    """Somebody's training with AdamW: batch t is a function of t."""

    def __init__(self, method: Method, budget: Budget, seed: int = 0) -> None:
        self.model = network(seed).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        example = torch.zeros(1, 1, 6, 6)
        self.pruner = Pruner(self.model, example, budget, steps=STEPS, method=method)
        self.pruner.attach(self.optimizer)

    def loss(self, t: int) -> Tensor:
        draw = torch.Generator().manual_seed(t)
        y = torch.randint(0, 3, (16,), generator=draw)
        x = torch.randn(16, 1, 6, 6, generator=draw) + y[:, None, None, None]
        return nn.functional.cross_entropy(self.model(x), y)

    def run(self, first: int, last: int) -> "Loop":
        for t in range(first, last):
            if self.pruner.wants_held_out:
                self.pruner.held_out_step(lambda t=t: self.loss(1000 + t))
            loss = self.loss(t)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return self

    def state(self) -> dict[str, Any]:
        """As it comes back from a file that only plain data is read from."""
        parts = {"model": self.model, "optimizer": self.optimizer, "pruner": self.pruner}
        file = io.BytesIO()
        torch.save({name: part.state_dict() for name, part in parts.items()}, file)
        file.seek(0)
        return torch.load(file, weights_only=True)

    def load(self, state: dict[str, Any]) -> "Loop":
        for name, part in state.items():
            getattr(self, name).load_state_dict(part)
        return self


@pytest.mark.parametrize("name", FALLING)
def test_a_stranger_s_loop_ends_on_the_budget(name):
    method, budget = FALLING[name]
    loop = Loop(method, budget).run(0, STEPS)
    pruner = loop.pruner
    assert pruner.cost[budget.resource] == pytest.approx(budget.ratio, rel=1e-3)
    assert pruner.history[0].cost == pytest.approx(1)
    for update in pruner.history[1:]:
        assert update.cost == pytest.approx(update.budget, rel=1e-3)
    smaller = pruner.finish()
    found = pruner.allocation
    assert found.met
    assert found.whole_ratio(budget.resource) > 0.85 * budget.ratio
    assert smaller(torch.zeros(2, 1, 6, 6)).shape == (2, 3)
    kept = sum(int((p != 0).sum()) for p in smaller.parameters())
    assert kept < 0.75 * sum(p.numel() for p in loop.model.parameters())


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if not m.learns])
def test_what_listens_to_no_loss_needs_no_step(name):
    method, model = METHODS[name](), network()
    pruner = Pruner(model, torch.zeros(1, 1, 6, 6), MACS, steps=0, method=method)
    assert pruner.cost["macs"] == pytest.approx(0.5)
    found = pruner.conclude()  # warns of no missing step
    assert found.met
    searched = Pruner(model, pruner.graph, MACS, steps=STEPS, method=method)
    searched.attach(torch.optim.SGD(model.parameters(), lr=0.0))
    for _ in range(STEPS):
        model(torch.ones(2, 1, 6, 6)).sum().backward()
        searched.attachment.optimizers[0].step()
    assert torch.equal(searched.conclude().counts, found.counts)
    with pytest.raises(ConfigError, match="steps: wanted a whole number >= 1, got 0"):
        Pruner(model, pruner.graph, MACS, steps=0)


@pytest.mark.parametrize("method", [DTP(), SSL(), DCSS()])
def test_other_weights_are_ranked_as_in_the_search(method):
    """DTP ranks by its scores, whatever the weights; the others by the weights that are cut."""
    loop = Loop(method, MACS).run(0, STEPS)
    b = loop.pruner.scheme.importance()
    with torch.no_grad():
        for p in loop.model.parameters():
            p.copy_(p.flip(0))
    other = loop.pruner.scheme.importance(network())
    loop.pruner.finish(weights="dense")
    assert torch.equal(loop.pruner.allocation.importance, other)
    assert torch.equal(b, other) == isinstance(method, DTP)


def test_the_weights_that_are_cut_can_be_refitted():
    pruner = Loop(DSA(), MACS).run(0, STEPS).pruner
    xs = [torch.randn(16, 1, 6, 6, generator=torch.Generator().manual_seed(0))]
    found = pruner.finish(weights="dense", rank="l2", reconstruct=xs).state_dict()
    dense, keep = network(), pruner.allocation.keep  # as they were at attach
    assert torch.equal(pruner.allocation.importance, importance(dense, pruner.graph, "l2"))
    wanted = prune(dense, pruner.graph, keep, reconstruct=xs, progress=False).state_dict()
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert not torch.equal(found["3.weight"], prune(dense, pruner.graph, keep)[3].weight)


@pytest.mark.parametrize("method", [DSA(estimator="mixed"), DCSS(estimator="held_out")])
def test_a_held_out_batch_moves_no_weight_gradient_or_statistic(method):
    loop = Loop(method, MACS)
    before = copy.deepcopy(loop.model.state_dict())
    loop.pruner.held_out_step(lambda: loop.loss(0))
    torch.testing.assert_close(loop.model.state_dict(), before, rtol=0, atol=0)
    assert all(p.grad is None for p in loop.model.parameters())
    assert (len(loop.pruner.history), loop.pruner.history[-1].step) == (2, 0)


@pytest.mark.parametrize("name", [*FALLING, *PENALISED])
def test_a_state_goes_on_to_the_same_bits(name):
    """From the middle of an interval between two updates."""
    method, budget = (FALLING | PENALISED)[name]
    whole = Loop(method, budget).run(0, STEPS)
    state = Loop(method, budget).run(0, 9).state()
    resumed = Loop(method, budget, seed=1).load(state).run(9, STEPS)
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(resumed.pruner.dense, whole.pruner.dense, rtol=0, atol=0)
    assert resumed.pruner.history == whole.pruner.history
    one, other = (loop.pruner.conclude() for loop in (whole, resumed))
    assert torch.equal(one.keep_ratios, other.keep_ratios)
    assert torch.equal(one.importance, other.importance)
    for name_, mask in (one.weight_mask or {}).items():
        assert torch.equal(mask, other.weight_mask[name_])


@pytest.mark.parametrize("name", [*FALLING, *PENALISED])
def test_an_evaluation_in_between_changes_nothing(name):
    """The network as it would be cut is what evaluates; and the training does not notice."""
    method, budget = (FALLING | PENALISED)[name]
    plain, watched = Loop(method, budget).run(0, 12), Loop(method, budget)
    for t in range(12):
        watched.run(t, t + 1)
        watched.model.eval()(torch.zeros(1, 1, 6, 6))
        watched.model.train()
        statistics = {k: v for k, v in watched.model.state_dict().items() if "running" in k}
    assert statistics
    torch.testing.assert_close(watched.model.state_dict(), plain.model.state_dict(), rtol=0, atol=0)
    x = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(5))
    seen = watched.model.eval()(x)
    found = watched.pruner.allocation
    watched.pruner.detach()
    cut = prune(watched.model, found.graph, found.keep)
    cut = zero_weights(cut, found.weight_mask or {})
    torch.testing.assert_close(cut(x), seen, rtol=1e-4, atol=1e-5)


def test_the_settings_of_a_method_are_those_of_the_search_unless_set():
    config = search_config(ratio_every=7, importance="l2", dtp=DTP(eps_last=0.1, ratio_every=3))
    assert config.method("uniform").ratio_every == 7
    assert config.method("dcss") == DCSS(ratio_every=7, importance="l2")
    assert config.method("dtp") == DTP(ratio_every=3, importance="l2", eps_last=0.1)
    assert config.method("dtp-weight") == DTPWeight(ratio_every=3, importance="l2", eps_last=0.1)
    again = type(config).model_validate_json(config.model_dump_json())
    assert again.method("dtp") == config.method("dtp")
    assert again.method("dtp").importance == "l2"  # it was not written as set


def test_a_method_that_waits_for_a_held_out_batch_says_so_but_not_in_the_warm_up():
    method = DCSS(estimator="held_out")
    loop = Loop(method, MACS)
    assert loop.pruner.wants_held_out
    loop.loss(0).backward()
    with pytest.raises(TrainingError, match="dcss moves its keep ratios by held-out batches"):
        loop.optimizer.step()
    later = Pruner(network(), loop.pruner.graph, MACS, steps=8, warmup_steps=4, method=method)
    assert not later.wants_held_out
