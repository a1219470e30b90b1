"""DTP: it meets its budget, its masks are the transport's, and no interruption changes a bit."""

import math
from functools import cache
from pathlib import Path

import pytest
import torch
from problems_runs import (
    PLAIN,
    TASK,
    allocate,
    graph8,
    search_config,
    search_data,
    tiny_preset,
    tiny_run,
    trained,
    write_folder,
)
from pydantic import ValidationError
from test_data import write_cifar
from torch import nn

from dsa_core.budget import Budget, Cost, budget_at, uniform_ratio
from dsa_core.errors import BudgetError
from dsa_core.lab.runs import RunConfig, run
from dsa_core.masks import masked_call
from dsa_core.methods import DTP, Allocation, SearchConfig
from dsa_core.methods.dtp import TransportScheme
from dsa_core.methods.dtp_counts import ranks
from dsa_core.methods.dtp_transport import sinkhorn, transport_mask
from dsa_core.pruner import Pruner
from dsa_core.ranking import importance
from dsa_core.scheme import Problem
from dsa_core.training import TrainConfig

PLANS = ("closed", "proximal")
STEPS = 20


def config(**own) -> SearchConfig:
    """Own settings; those of the weights' training pass through."""
    training = {k: own.pop(k) for k in ("epochs", "lr", "warmup_epochs", "ratio_every") if k in own}
    rest = {k: own.pop(k) for k in ("anneal_fraction", "importance") if k in own}
    return search_config(**training, **rest, dtp=DTP(**own))


def scheme_of(model: nn.Module, warmup: int = 0, **own) -> TransportScheme:
    """Half of the MACs in twenty steps."""
    method = DTP(**own)
    return TransportScheme(
        Problem(model, graph8(), Budget(macs=0.5), STEPS, warmup, 0, method),
        method,
        Cost.of(graph8(), "macs"),
    )


def attached(model: nn.Module, steps: int = STEPS, lr: float = 0.02, **own) -> Pruner:
    sgd = torch.optim.SGD(model.train().parameters(), lr=lr)
    budget, method = Budget(macs=0.5), DTP(**own)
    return Pruner(model, graph8(), budget, steps=steps, method=method).attach(sgd)


def step(pruner: Pruner, t: int) -> None:
    """One step of weights and scores."""
    x, y = list(search_data().weights.epoch(t // 4))[t % 4]
    pruner.model.zero_grad()
    TASK.loss(pruner.model(x), y).backward()
    pruner.attachment.optimizers[0].step()


@cache
def found(plan: str, resource: str = "macs", ratio: float = 0.5) -> Allocation:
    return allocate("dtp", trained(), Budget(**{resource: ratio}), config(plan=plan))


@pytest.mark.parametrize("plan", PLANS)
def test_the_history_is_the_schedule(plan):
    updates = found(plan).updates
    assert [u.step for u in updates] == list(range(0, STEPS + 1, 2))
    assert updates[0].keep_ratios == (1.0,) * 6
    for u in updates:
        wanted = budget_at(u.step, STEPS, start=1, end=0.5, anneal_fraction=0.6)
        assert u.budget == wanted
        assert u.cost == pytest.approx(wanted, abs=1e-12)
    for u in updates[1:]:
        t = u.step - 1  # of the last mask
        eps = {"closed": 0.5 * 0.04 ** (t / 19), "proximal": 0.02 * 20 / (t + 1)}[plan]
        assert u.figures["eps"] == pytest.approx(eps)
    inexact = [u.figures["inexactness"] for u in updates[1:]]
    assert inexact[-1] < max(inexact) / 2


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


@pytest.mark.parametrize("plan", PLANS)
def test_masks_sum_to_what_is_kept(plan):
    scheme = scheme_of(trained(), plan=plan)
    for t in range(STEPS):
        mask, k = scheme.mask(t), scheme.kept(t).detach()
        sums = torch.stack([m.sum() for m in mask.split(graph8().sizes.tolist())])
        torch.testing.assert_close(sums.double(), k, rtol=1e-5, atol=1e-4)
        scheme.step(t, torch.zeros_like(mask), lr=0.02)


GIVEN = {"keep_ratios": {"*": 1.0}, "anneal_fraction": 0.0, "score_lr": 0.0, "eps_last": 0.2}


def test_t_proximal_steps_are_sinkhorn_at_eps_over_t():
    """Fixed scores, fixed counts: after t steps the masks of the entropy eps / t."""
    scheme, errors = scheme_of(trained(), plan="proximal", **GIVEN), []
    for t in range(STEPS):
        mask, wide = scheme.mask(t).double(), scheme.scores.detach().double()
        eps = scheme.eps(t)
        assert eps == pytest.approx(0.2 * STEPS / (t + 1))
        wanted = transport_mask(wide, scheme.kept(t), scheme.offsets, eps=eps)
        errors.append(float((mask - wanted).abs().max()))
        scheme.step(t, torch.zeros(graph8().n_channels), lr=0.02)
    slow = sinkhorn(wide, scheme.kept(t), scheme.offsets, eps=scheme.eps(t), steps=3000)
    torch.testing.assert_close(mask, slow, rtol=0, atol=0.005)
    assert errors[-1] < 0.005 < 0.1 < float((wanted - wanted.mean()).abs().max())


def test_the_gradient_of_the_proximal_plan_is_that_of_its_entropy():
    scheme = scheme_of(trained(), plan="proximal", **GIVEN)
    for t in range(10):
        scheme.step(t, torch.zeros_like(scheme.mask(t)), lr=0.02)
    g = torch.randn(graph8().n_channels, generator=torch.Generator().manual_seed(0))
    (found,) = torch.autograd.grad((g * scheme.plan_masks(10)[0]).sum(), scheme.scores)
    mask = transport_mask(scheme.scores, scheme.kept(10), scheme.offsets, eps=scheme.eps(10))
    (wanted,) = torch.autograd.grad((g * mask).sum(), scheme.scores)
    # rows are right in the limit only; that of the last scaling alone would be off by 10 / 11
    assert float((found - wanted).norm() / wanted.norm()) < 0.2


@pytest.mark.parametrize("plan", PLANS)
def test_a_step_of_the_scores_is_that_of_sgd(plan):
    """The first with Nesterov's momentum: s - 1.9 * score_lr * 0.02 * dL/ds, by hand."""
    pruner = attached(trained(), plan=plan, score_lr=3.0, anneal_fraction=0.0, lr=0.1)
    model, scheme = trained().train(), scheme_of(trained(), plan=plan, anneal_fraction=0.0)
    scheme.mask(0)
    x, y = next(search_data().weights.epoch(0))
    mask = scheme.drawn[0]
    loss = TASK.loss(masked_call(model, graph8(), mask, x), y)
    (gradient,) = torch.autograd.grad(loss, scheme.scores)
    before = scheme.scores.detach().clone()
    step(pruner, 0)
    moved = pruner.scheme.scores.detach() - before
    torch.testing.assert_close(moved, -1.9 * 3.0 * 0.02 * gradient, rtol=1e-4, atol=1e-7)
    assert float(gradient.norm()) > 0


def test_the_rate_of_the_scores_falls_as_a_cosine_whatever_the_weights_do():
    scheme = scheme_of(trained(), score_lr=3.0)
    for t in range(STEPS):
        scheme.step(t, torch.zeros_like(scheme.mask(t)), lr=1e6)
        cosine = (1 + math.cos(math.pi * t / STEPS)) / 2
        assert scheme.sgd.param_groups[0]["lr"] == pytest.approx(0.06 * cosine)
    assert scheme.sgd.param_groups[0]["weight_decay"] == 0


@pytest.mark.parametrize("plan", PLANS)
def test_the_channels_that_stay_are_those_of_the_masks(plan):
    pruner = attached(trained(), plan=plan)
    for t in range(STEPS):
        step(pruner, t)
    allocation, mask = pruner.conclude(), pruner.scheme.mask(STEPS - 1)
    for group in graph8().prunable:
        part = slice(group.start, group.start + group.size)
        kept = mask[part][allocation.keep[part]].min()
        dropped = mask[part][~allocation.keep[part]].max()
        assert float(kept) >= float(dropped) - 1e-6


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
        DTP(keep_ratios={"*": 0.0})
    with pytest.raises(ValidationError, match=r"eps_first=0\.1 is below eps_last=0\.2"):
        DTP(eps_first=0.1, eps_last=0.2)


def test_scores_begin_when_the_warm_up_ends():
    model, seen = trained(), []
    config_ = config(warmup_epochs=2)
    allocate("dtp", model, config=config_, on_step=lambda u: seen.append(u.step))
    assert seen[0] == 10  # after two epochs of four steps, and one interval
    scheme = scheme_of(model, warmup=8)
    scheme.mask(8)
    b = importance(model, graph8(), "gamma_first")
    torch.testing.assert_close(scheme.scores.detach(), ranks(b, graph8().offsets))


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


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet56", "resnet18_cifar", "vgg16_cifar"])
def test_networks_of_the_paper_run_on_cifar_files(model, tmp_path):
    write_cifar(tmp_path, 10, n=2)
    run_short(short(model, "cifar10"), tmp_path)


@pytest.mark.slow
def test_a_network_of_the_paper_runs_on_an_imagenet_folder(tmp_path):
    folder = f"folder:{write_folder(tmp_path)}"
    run_short(short("mobilenet_v2", folder, resource="params", ratio=0.6), tmp_path)
