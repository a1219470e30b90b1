"""The search: it meets its budget, follows its schedule, and no interruption changes a bit."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from problems_runs import (
    TASK,
    allocate,
    found,
    fresh,
    graph8,
    same,
    search_config,
    search_data,
    stop_after,
    trained,
)
from pydantic import ValidationError

from dsa_core.budget import Budget, Cost, PaperSettings
from dsa_core.errors import TrainingError
from dsa_core.lab.data import Task
from dsa_core.methods import ALLOCATORS, DCSS, DTP, Allocation, Update
from dsa_core.methods.uniform import FixedDirection, random_direction
from dsa_core.training import train

STEPS = 20  # five epochs of four steps
SEARCHES: dict[str, tuple[str, dict[str, Any]]] = {  # method, settings
    "dsa": ("dsa", {}),
    "uniform": ("uniform", {}),
    "random": ("random", {}),
    "dcss": ("dcss", {}),
    "dcss held out": ("dcss", {"dcss": DCSS(estimator="held_out")}),
    "dtp": ("dtp", {}),
    "dtp proximal": ("dtp", {"dtp": DTP(plan="proximal")}),
}


def same_way(a: Allocation, b: Allocation) -> None:
    """Everything but the seconds, bit for bit."""
    assert a.updates == b.updates
    clean = [[{k: v for k, v in e.items() if "seconds" not in k} for e in x.epochs] for x in (a, b)]
    assert clean[0] == clean[1]
    torch.testing.assert_close(a.keep_ratios, b.keep_ratios, rtol=0, atol=0)
    torch.testing.assert_close(a.importance, b.importance, rtol=0, atol=0)
    assert torch.equal(a.counts, b.counts)


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize(("resource", "ratio"), [("macs", 0.5), ("params", 0.3)])
def test_the_budget_is_met_from_both_sides(name, resource, ratio):
    method, own = SEARCHES[name]
    budget, cost = Budget(**{resource: ratio}), Cost.of(graph8(), resource)
    allocation = found(method, resource, ratio)
    if own:
        allocation = allocate(method, trained(), budget, search_config(**own))
    assert abs(allocation.relaxed_cost(resource) - ratio) < 1e-3 * ratio
    assert allocation.whole_cost(resource) == cost.at(allocation.counts) <= ratio * cost.dense
    assert allocation.whole_ratio(resource) == allocation.whole_cost(resource) / cost.dense
    assert allocation.met
    kept = [int(allocation.keep[g.start : g.start + g.size].sum()) for g in graph8().prunable]
    assert kept == allocation.counts.tolist()
    for step in torch.eye(len(kept), dtype=torch.int64):  # not a channel more would fit
        more = (allocation.counts + step).minimum(cost.sizes)
        assert torch.equal(more, allocation.counts) or cost.at(more) > ratio * cost.dense


def test_uniform_gives_every_group_the_same_ratio():
    for update in found("uniform").updates:
        assert max(update.keep_ratios) - min(update.keep_ratios) < 1e-12
        assert "loss" not in update.figures
    ratios = found("dsa").keep_ratios
    assert float(ratios.max() - ratios.min()) > 0.05  # and the data say otherwise


def test_random_ratios_keep_their_direction_and_differ_by_the_seed():
    updates = found("random").updates
    late = [torch.tensor(u.keep_ratios) for u in updates if u.budget == updates[-1].budget]
    assert len(late) > 2
    assert all(torch.equal(late[0], each) for each in late)
    assert float(late[0].std()) > 0.05
    form, floors = Cost.of(graph8(), "macs").relative, torch.full((6,), 1 / 16).double()
    alone = [FixedDirection(form, floors, random_direction(floors, seed)) for seed in (0, 0, 1)]
    for ratios in alone:
        ratios.step(torch.zeros(6).double(), 0.5)
    assert torch.equal(alone[0].keep_ratios, alone[1].keep_ratios)
    assert not torch.equal(alone[0].keep_ratios, alone[2].keep_ratios)


def test_uniform_respects_floors():
    cost = Cost.of(graph8(), "macs")
    floors = torch.full((len(cost.sizes),), 1 / 16, dtype=torch.float64)
    floors[2] = 0.9
    ratios = FixedDirection(cost.relative, floors, torch.zeros_like(floors))
    ratios.step(torch.zeros_like(floors), 0.4)
    alpha = ratios.keep_ratios
    assert float(alpha[2]) == 0.9
    others = alpha[torch.arange(len(alpha)) != 2]
    assert float(others.max() - others.min()) < 1e-12
    assert abs(float(cost.relative(alpha)) - 0.4) < 1e-9


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, [*range(0, STEPS + 1, 2)]),
        ({"estimator": "mixed"}, [0, *range(0, STEPS, 2)]),
        ({"warmup_epochs": 2}, [0, *range(10, STEPS + 1, 2)]),
        ({"ratio_every": 3}, [*range(0, STEPS, 3)]),
    ],
)
def test_the_history_is_the_schedule(changes, steps):
    config = search_config(**changes)
    allocation = allocate("dsa", trained(), config=config)
    updates, ratio, free = allocation.updates, 0.5, "estimator" not in changes
    assert [u.step for u in updates] == steps
    assert (updates[0].cost, updates[0].figures) == (1.0, {})  # the dense network
    form, sizes = Cost.of(graph8(), "macs").relative, graph8().sizes.double()
    warm = 4 * config.warmup_epochs  # the clock starts after it
    for u in updates[1:]:
        done, total = u.step - warm, STEPS - warm
        assert u.budget == pytest.approx(ratio ** min(1.0, done / (0.6 * total)), rel=1e-12)
        sharp = 5 * 16 ** min(1.0, done / (total - 1))
        assert u.figures["sharpness"] == pytest.approx(sharp, rel=1e-12)
        alpha = torch.tensor(u.keep_ratios, dtype=torch.float64)
        assert u.cost == pytest.approx(float(form(alpha)), rel=1e-12)
        assert u.cost == pytest.approx(u.budget, rel=1e-6)
        assert bool(((alpha >= 1 / sizes) & (alpha <= 1)).all())
        assert ("loss" not in u.figures) is free
        assert 0 < u.figures.get("loss", 1.0) < math.inf
        assert 0 <= u.figures["inexactness"] <= float(sizes.sum()) / 4
        assert all(math.isfinite(value) for value in u.figures.values())
    assert updates[-1].keep_ratios == tuple(allocation.keep_ratios.tolist())


def test_epochs_are_recorded():
    allocation = found("dsa")
    assert [e["epoch"] for e in allocation.epochs] == list(range(5))
    assert all(e["masked"] == 1 and e["train_loss"] > 0 for e in allocation.epochs)
    assert allocation.seconds == sum(e["seconds"] for e in allocation.epochs) > 0
    assert allocation.notes["stopped"] is False


def test_on_step_ends_the_search_at_once():
    seen: list[Update] = []

    def third(update: Update) -> bool:
        seen.append(update)
        return len(seen) == 3

    allocation = allocate("dsa", trained(), on_step=third)
    assert allocation.updates[1:] == tuple(seen)
    assert [u.step for u in seen] == [2, 4, 6]
    assert allocation.notes["stopped"] is True
    assert allocation.met  # in whole channels, though the way was not over
    everything = allocate("uniform", trained(), on_step=lambda update: None)
    assert len(everything.updates) == 1 + STEPS / 2


def test_warm_up_is_plain_training():
    model, plain, config = fresh(), fresh(), search_config(warmup_epochs=2)
    config = config.model_copy(update={"estimator": "mixed"})  # it looks before its first step
    allocation = allocate("dsa", model, config=config, on_step=lambda update: True)
    two = config.train.model_copy(update={"epochs": 2})
    train(plain, search_data().weights, TASK, two, seed=0, progress=False)
    same(model, plain)
    _, first = allocation.updates
    assert (first.step, first.budget, first.figures["sharpness"]) == (8, 1.0, 5.0)
    assert [e["masked"] for e in allocation.epochs] == [0.0, 0.0]


def test_fixed_once_met():
    config = search_config(fix_when_met=True, anneal_fraction=0.3, estimator="mixed")
    updates = allocate("dsa", trained(), config=config).updates
    met = [i for i, u in enumerate(updates) if u.cost <= 0.5 * (1 + 1e-6)]
    assert 0 < met[0] < len(updates) - 2
    assert {u.keep_ratios for u in updates[met[0] :]} == {updates[met[0]].keep_ratios}
    assert "loss" in updates[met[0]].figures
    assert all("loss" not in u.figures for u in updates[met[0] + 1 :])  # no batch is wasted


def test_the_way_of_the_paper_runs():
    config = search_config(
        warmup_epochs=1,
        optimizer="paper",
        settings=PaperSettings(theta_lr=5.0),
        estimator="straight_through",
        ratio_every=1,
        sharpness_first=0.05,
        anneal_fraction=0.0,
        prob_floor=0.01,
        fix_when_met=True,
    )
    allocation = allocate("dsa", fresh(), Budget(macs=0.8), config)
    assert allocation.met
    assert all(u.budget == 0.8 for u in allocation.updates[1:])
    assert min(allocation.updates[-1].keep_ratios) < 0.95  # it moved


def test_a_loss_that_is_not_finite_stops_the_search(tmp_path):
    path = tmp_path / "search.pt"
    config = search_config(lr=1e12)
    with pytest.raises(TrainingError, match=r"gradient is not finite.*search\.pt.*smaller lr"):
        allocate("dsa", trained(), config=config, checkpoint=path)
    state = torch.load(path, weights_only=True)
    assert state["history"] == []
    torch.testing.assert_close(state["model"], dict(trained().state_dict()), rtol=0, atol=0)


def test_a_held_out_loss_that_is_not_finite_is_named():
    method, own = SEARCHES["dcss held out"]
    broken = Task("broken", lambda o, y: o.sum() * torch.nan, TASK.score, "accuracy")
    data, config = replace(search_data(), task=broken), search_config(**own)
    with pytest.raises(TrainingError, match=r"held_out_step: .* loss \(nan\) is not finite"):
        ALLOCATORS[method](trained(), graph8(), Budget(macs=0.5), data, config, seed=0)


def test_same_seed_same_bits_other_seed_other_masks():
    models = [trained() for _ in range(3)]
    before = torch.get_rng_state()
    a, b, c = (allocate("dsa", m, seed=s) for m, s in zip(models, (0, 0, 1), strict=True))
    assert torch.equal(torch.get_rng_state(), before)  # the caller's random numbers are their own
    same(models[0], models[1])
    same_way(a, b)
    assert a.updates[-1].figures != c.updates[-1].figures  # the weights trained under others
    assert not torch.equal(models[0][0].weight, models[2][0].weight)


@pytest.mark.parametrize("name", ["dsa", "uniform", "dcss held out", "dtp proximal"])
def test_interrupted_and_resumed_is_bit_identical(name, tmp_path):
    path, whole, model = tmp_path / "search.pt", trained(), trained()
    method, own = SEARCHES[name]
    config = search_config(**own)
    undisturbed = allocate(method, whole, config=config)
    for n, epochs in ((1, 0), (5, 2), (3, 3)):  # each resume begins at the last finished epoch
        word = rf"{epochs} of 5 epochs are saved: the same call resumes from .*search\.pt"
        with pytest.raises(KeyboardInterrupt, match=word):
            allocate(method, model, config=config, checkpoint=path, on_step=stop_after(n))
        model = fresh(seed=n)  # what is in memory does not matter
    resumed = allocate(method, model, config=config, checkpoint=path)
    same(whole, model)
    same_way(undisturbed, resumed)
    again = fresh()
    finished = allocate(method, again, config=config, checkpoint=path)  # nothing left to do
    same_way(undisturbed, finished)
    assert undisturbed.notes == finished.notes
    same(whole, again)


def test_a_checkpoint_of_another_search_is_refused(tmp_path):
    path = tmp_path / "search.pt"
    given = {"config": search_config(epochs=1), "checkpoint": path}
    allocate("uniform", trained(), **given)
    with pytest.raises(TrainingError, match=r"different run.*budget was .*0\.5.*is now .*0\.4"):
        allocate("uniform", trained(), Budget(macs=0.4), **given)
    with pytest.raises(TrainingError, match=r"method was 'uniform .* and is now 'dsa "):
        allocate("dsa", trained(), **given)


def test_the_settings_know_their_names():
    with pytest.raises(ValidationError, match="ratio_evry"):
        search_config(ratio_evry=2)
    with pytest.raises(ValidationError, match="gamma_first"):
        search_config(importance="taylor")
    with pytest.raises(ValidationError, match="'priced' or 'paper'"):
        search_config(optimizer="price")


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_held_out_batches_go_on_where_the_last_epoch_left_them(every):
    config = search_config(warmup_epochs=1, ratio_every=every, estimator="mixed")
    due = [s for s in range(STEPS) if s >= 4 and (s - 4) % every == 0]
    seen: list[int] = []
    some = search_data()
    forever = some.ratios.forever

    def spy(start: int = 0):
        seen.append(start)
        return forever(start)

    some.ratios.forever = spy
    ALLOCATORS["dsa"](fresh(), graph8(), Budget(macs=0.5), some, config, seed=0)
    assert seen == [len([s for s in due if s < first]) for first in range(0, STEPS, 4)]


@pytest.mark.parametrize("method", ["uniform", "random"])
def test_no_held_out_batch_is_read_without_need(method):
    some = search_data()
    some.ratios.forever = None  # whoever calls it fails
    some.ratios.epoch = None
    found = ALLOCATORS[method](fresh(), graph8(), Budget(macs=0.5), some, search_config(), seed=0)
    assert found.met
