"""DTP: it meets its budget, its masks are the transport's, and no interruption changes a bit."""

import math
from typing import Any

import pytest
import torch
from problems_runs import (
    PLAIN,
    TASK,
    allocate,
    found,
    graph8,
    search_config,
    search_data,
    tiny_preset,
    tiny_run,
    trained,
    write_folder,
)
from pydantic import ValidationError
from torch import nn

from dsa_core.budget import Budget, Cost, uniform_ratio
from dsa_core.errors import BudgetError
from dsa_core.lab.data import Dataset, datasets
from dsa_core.lab.runs import run
from dsa_core.masks import masked_call
from dsa_core.methods import DTP, Allocation, SearchConfig
from dsa_core.methods.dtp import TransportScheme
from dsa_core.methods.dtp_counts import ranks
from dsa_core.methods.dtp_transport import transport_mask
from dsa_core.pruner import Pruner
from dsa_core.ranking import importance
from dsa_core.scheme import Problem
from dsa_core.training import TrainConfig

PLANS = ("closed", "proximal")
STEPS = 20


def searched(budget: Budget | None = None, **own) -> Allocation:
    return allocate("dtp", trained(), budget, search_config(dtp=DTP(**own)))


def scheme_of(model: nn.Module, warmup: int = 0, **own) -> TransportScheme:
    """Half of the MACs in twenty steps."""
    method = DTP(**own)
    return method.scheme(Problem(model, graph8(), Budget(macs=0.5), STEPS, warmup, 0, method))


def attached(model: nn.Module, **own) -> Pruner:
    sgd = torch.optim.SGD(model.train().parameters(), lr=0.02)
    pruner = Pruner(model, graph8(), Budget(macs=0.5), steps=STEPS, method=DTP(**own))
    return pruner.attach(sgd)


def step(pruner: Pruner) -> None:
    """One step of weights and scores, on the first batch."""
    x, y = next(search_data().weights.epoch(0))
    pruner.model.zero_grad()
    TASK.loss(pruner.model(x), y).backward()
    pruner.attachment.optimizers[0].step()


@pytest.mark.parametrize("plan", PLANS)
def test_the_entropy_falls_by_the_schedule(plan):
    updates = searched(plan=plan).updates
    for u in updates[1:]:
        assert u.cost == pytest.approx(u.budget, abs=1e-12)
        t = u.step - 1  # of the last mask
        eps = {"closed": 0.5 * 0.04 ** (t / 19), "proximal": 0.02 * 20 / (t + 1)}[plan]
        assert u.figures["eps"] == pytest.approx(eps)
    inexact = [u.figures["inexactness"] for u in updates[1:]]
    assert inexact[-1] < max(inexact) / 2


def test_floors_and_divisor_hold():
    floors = {graph8().prunable[0].name: 0.75}
    allocation = searched(Budget(macs=0.4, floors=floors, divisor=4))
    assert int(allocation.counts[0]) >= 12
    assert bool((allocation.counts % 4 == 0).all())
    assert allocation.met


def test_without_a_word_from_the_loss_it_is_uniform():
    """Scores that do not train stay the ranks, and the threshold gives every group one ratio."""
    allocation = searched(score_lr=0.0)
    floors = torch.full((6,), 1e-3, dtype=torch.float64)
    wanted = uniform_ratio(Cost.of(graph8(), "macs").relative, 0.5, floors)
    assert float((allocation.keep_ratios - wanted).abs().max()) < 0.02  # 1 of 64 is 0.016
    b = importance(trained(), graph8(), "gamma_first")
    torch.testing.assert_close(allocation.importance, ranks(b, graph8().offsets))
    spread = found("dtp").keep_ratios
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


def test_the_gradient_of_the_proximal_plan_is_that_of_its_entropy():
    scheme = scheme_of(trained(), plan="proximal", **GIVEN)
    for t in range(10):
        scheme.step(t, torch.zeros_like(scheme.mask(t)), lr=0.02)
    g = torch.randn(graph8().n_channels, generator=torch.Generator().manual_seed(0))
    (got,) = torch.autograd.grad((g * scheme.plan_masks(10)[0]).sum(), scheme.scores)
    mask = transport_mask(scheme.scores, scheme.kept(10), scheme.offsets, eps=scheme.eps(10))
    (wanted,) = torch.autograd.grad((g * mask).sum(), scheme.scores)
    # rows are right in the limit only; that of the last scaling alone would be off by 10 / 11
    assert float((got - wanted).norm() / wanted.norm()) < 0.2


@pytest.mark.parametrize("plan", PLANS)
def test_a_step_of_the_scores_is_that_of_sgd(plan):
    """The first with Nesterov's momentum: s - 1.9 * score_lr * 0.02 * dL/ds, by hand."""
    pruner = attached(trained(), plan=plan, score_lr=3.0, anneal_fraction=0.0)
    model, scheme = trained().train(), scheme_of(trained(), plan=plan, anneal_fraction=0.0)
    scheme.mask(0)
    x, y = next(search_data().weights.epoch(0))
    mask = scheme.drawn[0]
    loss = TASK.loss(masked_call(model, graph8(), mask, x), y)
    (gradient,) = torch.autograd.grad(loss, scheme.scores)
    before = scheme.scores.detach().clone()
    step(pruner)
    moved = pruner.scheme.scores.detach() - before
    torch.testing.assert_close(moved, -1.9 * 3.0 * 0.02 * gradient, rtol=1e-4, atol=1e-7)
    assert float(gradient.norm()) > 0


def test_the_rate_of_the_scores_falls_as_a_cosine_whatever_the_weights_do():
    scheme = scheme_of(trained(), score_lr=3.0)
    for t in range(STEPS):
        scheme.step(t, torch.zeros_like(scheme.mask(t)), lr=1e6)
        cosine = (1 + math.cos(math.pi * t / STEPS)) / 2
        assert scheme.sgd.param_groups[0]["lr"] == pytest.approx(0.06 * cosine)


@pytest.mark.parametrize("plan", PLANS)
def test_the_channels_that_stay_are_those_of_the_masks(plan):
    pruner = attached(trained(), plan=plan)
    for _ in range(STEPS):
        step(pruner)
    allocation, mask = pruner.conclude(), pruner.scheme.mask(STEPS - 1)
    for group in graph8().prunable:
        part = slice(group.start, group.start + group.size)
        kept = mask[part][allocation.keep[part]].min()
        dropped = mask[part][~allocation.keep[part]].max()
        assert float(kept) >= float(dropped) - 1e-6


def test_given_ratios_keep_their_proportions():
    names = [g.name for g in graph8().prunable]
    given = {names[0]: 0.6, names[5]: 0.4, "*": 0.5}
    last = searched(keep_ratios=given).updates[-1]
    final = torch.tensor(last.keep_ratios)
    torch.testing.assert_close(final / final[1], torch.tensor([1.2, 1, 1, 1, 1, 0.8]))
    assert last.cost == pytest.approx(0.5, abs=1e-9)


def test_given_ratios_are_checked():
    with pytest.raises(BudgetError, match=r"no group is named 'conv_1'.*did you mean 'conv1'"):
        scheme_of(trained(), keep_ratios={"conv_1": 0.5, "*": 1.0})
    with pytest.raises(BudgetError, match=r"nothing is said of \['layer1\.0\.conv1'"):
        scheme_of(trained(), keep_ratios={graph8().prunable[0].name: 0.5})
    with pytest.raises(ValidationError, match=r"'\*' must be in \(0, 1\], got 0"):
        DTP(keep_ratios={"*": 0.0})
    with pytest.raises(ValidationError, match=r"eps_first=0\.1 is below eps_last=0\.2"):
        DTP(eps_first=0.1, eps_last=0.2)


def test_scores_begin_when_the_warm_up_ends():
    scheme = scheme_of(trained(), warmup=8)
    scheme.mask(8)
    b = importance(trained(), graph8(), "gamma_first")
    torch.testing.assert_close(scheme.scores.detach(), ranks(b, graph8().offsets))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet56", "resnet18_cifar", "vgg16_cifar", "mobilenet_v2"])
def test_networks_of_the_paper_run_on_images_like_cifars_or_imagenets(model, tmp_path, monkeypatch):
    """One epoch of each phase, in batches of two."""
    own: dict[str, Any] = {"dataset": "cifar10"}
    if model == "mobilenet_v2":
        own = {"dataset": f"folder:{write_folder(tmp_path)}", "resource": "params", "ratio": 0.6}
    else:
        images, labels = torch.randint(256, (10, 3, 32, 32), dtype=torch.uint8), torch.arange(10)
        some = Dataset(
            "cifar10",
            10,
            images,
            labels,
            images,
            labels,
            (0.5,) * 3,
            (0.3,) * 3,
            augment="crop_flip",
        )
        monkeypatch.setitem(datasets.LOADERS, "cifar10", lambda *_, **__: some)
    one = TrainConfig(epochs=1, lr=0.01, batch_size=2, **PLAIN)
    search = SearchConfig(train=one, ratio_every=1, anneal_fraction=0.3)
    preset = tiny_preset(dense=None, search=search, fine_tune=one, weights_fraction=0.7)
    config = tiny_run(method="dtp", model=model, preset=preset, **own)
    record = run(config, tmp_path / "runs", data_root=tmp_path, progress=False)
    cost = record.costs[config.resource]
    assert record.budget_met
    assert 0.9 * config.ratio * cost.dense < cost.whole == cost.counted <= config.ratio * cost.dense
