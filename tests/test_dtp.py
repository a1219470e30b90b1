"""DTP: it meets its budget, its masks are the transport's, and no interruption changes a bit."""

import math
import pickle
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from problems_runs import (
    PLAIN,
    TASK,
    allocate,
    fresh,
    graph8,
    search_config,
    search_data,
    tiny_preset,
    tiny_run,
    trained,
    write_folder,
)
from pydantic import ValidationError
from test_search import same, same_way, stop_after
from torch import nn

from dsa_core.budget import Budget, Cost, budget_at, uniform_ratio
from dsa_core.channels import trace
from dsa_core.errors import BudgetError, TrainingError
from dsa_core.kernels.transport import sinkhorn, transport_mask
from dsa_core.lab.runs import RunConfig, run
from dsa_core.methods import Allocation, Problem, SearchConfig, Update
from dsa_core.methods.dtp import TransportScheme
from dsa_core.methods.dtp import allocate as dtp
from dsa_core.methods.dtp_units import ranks
from dsa_core.methods.search import SearchRun
from dsa_core.methods.settings.dtp import DTPSettings
from dsa_core.ranking import importance
from dsa_core.training import FP32, TrainConfig, make_sgd

PLANS = ("closed", "proximal")
STEPS = 20


def config(**own) -> SearchConfig:
    """Own settings; those of the weights' training pass through."""
    training = {k: own.pop(k) for k in ("epochs", "lr", "warmup_epochs", "ratio_every") if k in own}
    rest = {k: own.pop(k) for k in ("anneal_fraction", "importance") if k in own}
    return search_config(**training, **rest, dtp=DTPSettings(**own))


def problem_of(model: nn.Module, settings: SearchConfig, budget: Budget | None = None) -> Problem:
    return Problem("dtp", model, graph8(), budget or Budget(macs=0.5), search_data(), settings, 0)


def run_of(model: nn.Module, settings: SearchConfig, budget: Budget | None = None) -> SearchRun:
    problem = problem_of(model, settings, budget)
    return SearchRun(problem, TransportScheme(problem))


@cache
def found(plan: str, resource: str = "macs", ratio: float = 0.5) -> Allocation:
    return allocate("dtp", trained(), Budget(**{resource: ratio}), config(plan=plan))


# ------------------------------------------------------------------ the budget


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("resource", "ratio"), [("macs", 0.5), ("params", 0.3)])
def test_the_budget_is_hit(plan, resource, ratio):
    allocation = found(plan, resource, ratio)
    cost = Cost.of(graph8(), resource)
    assert allocation.relaxed_cost() == pytest.approx(ratio, abs=1e-12)
    assert allocation.whole_cost() == cost.at(allocation.counts) <= ratio * cost.dense
    assert allocation.met
    cheapest = min(
        cost.at(allocation.counts + torch.eye(6, dtype=torch.int64)[k])
        for k in range(6)
        if allocation.counts[k] < cost.sizes[k]
    )
    assert cheapest > ratio * cost.dense  # not a channel more would fit


@pytest.mark.parametrize("plan", PLANS)
def test_the_history_is_the_schedule(plan):
    updates = found(plan).updates
    assert [u.step for u in updates] == list(range(0, STEPS, 2))
    for u in updates:
        wanted = budget_at(u.step, STEPS, start=1, end=0.5, anneal_fraction=0.6)
        assert u.budget == wanted
        assert u.cost == pytest.approx(wanted, abs=1e-12)
        assert math.isnan(u.loss)
        eps = {"closed": 0.5 * 0.04 ** (u.step / 19), "proximal": 0.02 * 20 / (u.step + 1)}[plan]
        assert u.sharpness == pytest.approx(2 / eps)
    assert updates[-1].inexactness < max(u.inexactness for u in updates) / 2


def test_floors_and_divisor_hold():
    name = graph8().prunable[0].name
    budget = Budget(macs=0.4, floors={name: 0.75}, divisor=4)
    allocation = allocate("dtp", trained(), budget, config())
    assert int(allocation.counts[0]) >= 12
    assert bool((allocation.counts % 4 == 0).all())
    assert allocation.met
    with pytest.raises(BudgetError, match="cannot be reached"):
        allocate("dtp", trained(), Budget(macs=0.3, floors={"*": 0.9}), config())


def test_without_a_word_from_the_loss_it_is_uniform():
    """Scores that do not train stay the ranks, and the threshold gives every group one ratio."""
    allocation = allocate("dtp", trained(), config=config(score_lr=0.0, plan="closed"))
    floors = torch.full((6,), 1e-3, dtype=torch.float64)
    wanted = uniform_ratio(Cost.of(graph8(), "macs").relative, 0.5, floors)
    assert float((allocation.keep_ratios - wanted).abs().max()) < 0.02  # 1 of 64 is 0.016
    b = importance(trained(), graph8(), "gamma_first")
    torch.testing.assert_close(allocation.importance, ranks(b, graph8().offsets))
    spread = found("closed").keep_ratios
    assert float((spread - wanted).abs().max()) > 0.03  # and here the loss has spoken


# ------------------------------------------------------------------ the masks


@pytest.mark.parametrize("plan", PLANS)
def test_masks_sum_to_what_is_kept(plan):
    search = run_of(trained(), config(plan=plan))
    search.precision = FP32
    scheme = search.scheme
    scheme.update(0, iter(()), FP32)
    for step in range(STEPS):
        k, mask, _ = scheme.masks(step)
        torch.testing.assert_close(k, scheme.kept(step))
        sums = torch.stack([m.sum() for m in mask.split(graph8().sizes.tolist())])
        torch.testing.assert_close(sums.double(), k, rtol=1e-5, atol=1e-4)
        scheme.weights(step, dict(trained().named_parameters()))


def test_t_proximal_steps_are_sinkhorn_at_eps_over_t():
    """Fixed scores, fixed counts: after t steps the masks of the entropy eps / t."""
    given = {"keep_ratios": {"*": 1.0}, "anneal_fraction": 0.0, "score_lr": 0.0, "eps_last": 0.2}
    scheme = run_of(trained(), config(plan="proximal", **given)).scheme
    scheme.update(0, iter(()), FP32)
    wide, last, errors = scheme.scores.detach().double(), 0, []
    for step in range(STEPS):
        mask = scheme.masks(step)[1].detach().double()
        eps = scheme.eps(step)
        assert eps == pytest.approx(0.2 * STEPS / (step + 1))
        wanted = transport_mask(wide, scheme.kept(step), scheme.offsets, eps=eps)
        errors.append(float((mask - wanted).abs().max()))
        scheme.weights(step, dict(trained().named_parameters()))
        last = step
    slow = sinkhorn(wide, scheme.kept(last), scheme.offsets, eps=scheme.eps(last), steps=3000)
    torch.testing.assert_close(mask, slow, rtol=0, atol=0.005)
    assert errors[-1] < 0.005 < 0.1 < float((wanted - wanted.mean()).abs().max())


def test_the_gradient_of_the_proximal_plan_is_that_of_its_entropy():
    given = {"keep_ratios": {"*": 1.0}, "anneal_fraction": 0.0, "score_lr": 0.0, "eps_last": 0.2}
    scheme = run_of(trained(), config(plan="proximal", **given)).scheme
    scheme.update(0, iter(()), FP32)
    for step in range(10):
        scheme.weights(step, dict(trained().named_parameters()))
    g = torch.randn(graph8().n_channels, generator=torch.Generator().manual_seed(0))
    (found,) = torch.autograd.grad((g * scheme.masks(10)[1]).sum(), scheme.scores)
    mask = transport_mask(scheme.scores, scheme.kept(10), scheme.offsets, eps=scheme.eps(10))
    (wanted,) = torch.autograd.grad((g * mask).sum(), scheme.scores)
    # rows are right in the limit only; that of the last scaling alone would be off by 10 / 11
    assert float((found - wanted).norm() / wanted.norm()) < 0.2


@pytest.mark.parametrize("plan", PLANS)
def test_a_step_of_the_scores_is_that_of_sgd(plan):
    """One step without momentum: s - score_lr * lr * dL/ds, from the loss under the masks."""
    settings = config(plan=plan, score_lr=3.0, epochs=1, anneal_fraction=0.0)
    train = settings.train.model_copy(update={"momentum": 0.0, "nesterov": False, "lr": 0.1})
    settings = settings.model_copy(update={"train": train})
    model, search = trained(), run_of(trained(), settings)
    search.precision = FP32
    scheme, (x, y) = search.scheme, next(search_data().weights.epoch(0))
    twin = TransportScheme(problem_of(model, settings))
    twin.check = lambda name, value: None
    for each in (scheme, twin):
        each.update(0, iter(()), FP32)
    state = twin.weights(0, dict(model.named_parameters()))
    loss = TASK.loss(torch.func.functional_call(model.train(), state, (x,)), y)
    (gradient,) = torch.autograd.grad(loss, twin.scores)
    before = scheme.scores.detach().clone()
    search.model.train()
    search.train_step(0, x, y)
    torch.testing.assert_close(scheme.scores.detach() - before, -0.3 * gradient)
    assert float(gradient.norm()) > 0


def test_scores_neither_decay_nor_take_the_weights_rate():
    sgd = make_sgd(fresh(), TrainConfig(epochs=1, lr=0.1, weight_decay=0.1, **PLAIN))
    scheme = TransportScheme(problem_of(fresh(), config(score_lr=3.0)))
    for group in scheme.parameters():
        sgd.add_param_group(group)
    assert (sgd.param_groups[-1]["weight_decay"], sgd.param_groups[-1]["lr_factor"]) == (0.0, 3.0)


@pytest.mark.parametrize("plan", PLANS)
def test_the_channels_that_stay_are_those_of_the_masks(plan):
    search = run_of(trained(), config(plan=plan))
    search.precision = FP32
    while search.epoch < 5:
        search.train_epoch(None)
    allocation = search.allocation(stopped=False)
    mask = search.scheme.masks(STEPS - 1)[1].detach()
    for group in graph8().prunable:
        part = slice(group.start, group.start + group.size)
        kept = mask[part][allocation.keep[part]].min()
        dropped = mask[part][~allocation.keep[part]].max()
        assert float(kept) >= float(dropped) - 1e-6


# ------------------------------------------------------------------ counts that are given


def test_given_ratios_keep_their_proportions():
    names = [g.name for g in graph8().prunable]
    given = {names[0]: 0.6, names[5]: 0.4, "*": 0.5}
    updates = allocate("dtp", trained(), config=config(keep_ratios=given)).updates
    final = torch.tensor(updates[-1].keep_ratios)
    torch.testing.assert_close(final / final[1], torch.tensor([1.2, 1, 1, 1, 1, 0.8]))
    assert updates[-1].cost == pytest.approx(0.5, abs=1e-9)


def test_given_ratios_are_checked():
    with pytest.raises(BudgetError, match=r"no group is named 'conv_1'.*did you mean 'conv1'"):
        allocate("dtp", trained(), config=config(keep_ratios={"conv_1": 0.5, "*": 1.0}))
    with pytest.raises(BudgetError, match=r"nothing is said of \['layer1\.0\.conv1'"):
        allocate("dtp", trained(), config=config(keep_ratios={graph8().prunable[0].name: 0.5}))
    with pytest.raises(ValidationError, match=r"'\*' must be in \(0, 1\], got 0"):
        DTPSettings(keep_ratios={"*": 0.0})
    with pytest.raises(ValidationError, match=r"eps_first=0\.1 is below eps_last=0\.2"):
        DTPSettings(eps_first=0.1, eps_last=0.2)


# ------------------------------------------------------------------ stopping and going on


@pytest.mark.parametrize("plan", PLANS)
def test_interrupted_and_resumed_is_bit_identical(plan, tmp_path):
    path, whole, model = tmp_path / "search.pt", trained(), trained()
    settings = config(plan=plan, warmup_epochs=1)
    undisturbed = allocate("dtp", whole, config=settings)
    for n in (1, 4, 3):
        with pytest.raises(KeyboardInterrupt, match=r"the same call goes on from"):
            allocate("dtp", model, config=settings, checkpoint=path, on_step=stop_after(n))
        model = fresh(seed=n)  # what is in memory does not matter
    resumed = allocate("dtp", model, config=settings, checkpoint=path)
    same(whole, model)
    same_way(undisturbed, resumed)


def test_on_step_ends_the_search_within_the_budget():
    seen: list[Update] = []
    allocation = allocate(
        "dtp", trained(), config=config(), on_step=lambda u: seen.append(u) or len(seen) == 3
    )
    assert allocation.updates == tuple(seen)
    assert allocation.notes["stopped"] is True
    assert allocation.met


def test_scores_begin_when_the_warm_up_ends():
    seen: list[Update] = []
    search = run_of(fresh(), config(warmup_epochs=2))
    search.precision = FP32
    for _ in range(2):
        search.train_epoch(seen.append)
    assert not seen
    assert bool((search.scheme.scores == 0).all())
    search.scheme.update(8, iter(()), FP32)
    b = importance(search.model, graph8(), "gamma_first")
    torch.testing.assert_close(search.scheme.scores.detach(), ranks(b, graph8().offsets))


def test_scores_that_are_not_finite_are_named():
    search = run_of(trained(), config())
    search.scheme.update(0, iter(()), FP32)
    with torch.no_grad():
        search.scheme.scores[3] = torch.nan
    with pytest.raises(TrainingError, match="a score before step 2 is not finite"):
        search.scheme.update(2, iter(()), FP32)
    with pytest.raises(TrainingError, match="not finite in epoch 0"):
        allocate("dtp", trained(), config=config(lr=1e12))


def test_other_budgets_are_read_from_the_way():
    allocation = found("closed").at(macs=0.7)
    assert allocation.met
    assert allocation.whole_ratio() <= 0.7 < allocation.whole_ratio() + 0.02


def test_a_network_without_batchnorm():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(128, 10))
    graph = trace(model, torch.zeros(1, 1, 8, 8))
    allocation = dtp(model, graph, Budget(params=0.4), search_data(), config(), seed=0)
    assert allocation.met
    assert len(allocation.epochs) == 5


def test_settings_that_are_not_set_leave_the_hash_alone():
    plain = tiny_run()
    text = plain.preset.search.model_dump_json()
    assert "dtp" not in text
    assert '"settings":null' in text
    search = plain.preset.search.model_copy(update={"dtp": DTPSettings(plan="closed")})
    other = plain.model_copy(update={"preset": plain.preset.model_copy(update={"search": search})})
    assert other.hash != plain.hash
    assert RunConfig.model_validate_json(other.model_dump_json()) == other


# ------------------------------------------------------------------ a whole run, other data


def write_cifar(root: Path, classes: int, n: int = 8) -> str:
    """CIFAR's own files, with noise in them."""
    folder = root / ("cifar-10-batches-py" if classes == 10 else "cifar-100-python")
    parts = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part in parts if classes == 10 else ["train", "test"]:
        labels = rng.integers(0, classes, n).tolist()
        content = {"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8), "fine_labels": labels}
        (folder / part).write_bytes(pickle.dumps(content | {"labels": labels}, protocol=2))
    return f"cifar{classes}"


def short(model: str, dataset: str, **changes) -> RunConfig:
    """One epoch of each phase, in batches of two."""
    one = TrainConfig(epochs=1, lr=0.01, batch_size=2, **PLAIN)
    search = SearchConfig(train=one, ratio_every=1, anneal_fraction=0.3)
    preset = tiny_preset(dense=None, search=search, fine_tune=one, weights_fraction=0.7)
    return tiny_run(method="dtp", model=model, dataset=dataset, preset=preset, **changes)


def run_short(config: RunConfig, root: Path) -> None:
    record = run(config, root / "runs", data_root=root, progress=False)
    cost = record.costs[config.resource]
    assert record.budget_met
    assert cost.whole == cost.counted <= config.ratio * cost.dense
    assert cost.counted > 0.9 * config.ratio * cost.dense


def test_cifar_files_run(tmp_path):
    run_short(short("resnet20", write_cifar(tmp_path, 100)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet20", "resnet56", "resnet18_cifar", "vgg16_cifar"])
@pytest.mark.parametrize("classes", [10, 100])
def test_networks_of_the_paper_run_on_cifar_files(model, classes, tmp_path):
    run_short(short(model, write_cifar(tmp_path, classes, n=2 if classes == 10 else 8)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mobilenet_v2", "resnet18"])
def test_networks_of_the_paper_run_on_an_imagenet_folder(model, tmp_path):
    folder = f"folder:{write_folder(tmp_path)}"
    run_short(short(model, folder, resource="params", ratio=0.6), tmp_path)


def test_the_record_of_a_run(tmp_path):
    settings = tiny_run(method="dtp")
    record = run(settings, tmp_path, progress=False)
    assert record.budget_met
    assert record.method == "dtp"
    assert record.notes["plan"] == "closed"
    assert record.scores.fine_tuned > 0.3
