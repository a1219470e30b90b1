"""SSL and MorphNet: the penalties are the papers', the trials are counted, and misses are told."""

from typing import Any

import pytest
import torch
from problems_runs import allocate, fresh, graph8, search_config, stop_after, trained
from torch import Tensor, nn

from dsa_core.budget import Budget, Cost
from dsa_core.errors import ConfigError, TrainingError
from dsa_core.methods import SSL, MorphNet
from dsa_core.methods.bracket import Trial, best_trial
from dsa_core.methods.morphnet import largest_scales
from dsa_core.methods.penalised import Penalty, PenaltyScheme, rounded_off
from dsa_core.methods.ssl import group_norms, group_sizes, slices_of
from dsa_core.methods.trials import path_length
from dsa_core.pruner import Pruner
from dsa_core.scheme import Problem
from dsa_core.tracing import trace
from dsa_core.training import FP32, Precision
from dsa_core.training.trainer import Trainer

LR = 0.02  # of `search_config`
STEPS = 20


def problem(
    method: Penalty | None = None,
    model: nn.Module | None = None,
    budget: Budget | None = None,
    steps: int = STEPS,
) -> Problem:
    budget, method = budget or Budget(macs=0.5), method or SSL()
    return Problem(model or trained(), graph8(), budget, steps, 0, 0, method)


def scheme_of(p: Problem) -> PenaltyScheme:
    return p.method.scheme(p)


@pytest.mark.parametrize("members", ["filters", "producers", "all"])
def test_group_norms_are_those_of_each_channel(members):
    """Every weight of a channel, found entry by entry."""
    graph, parameters = graph8(), dict(trained().named_parameters())
    slices = slices_of(graph, members)
    norms, sizes = group_norms(parameters, graph, slices), group_sizes(graph, slices)
    for channel in (0, 16, 40, graph.n_channels - 1):
        weights = torch.cat(
            [
                parameters[name].select(axis, position).flatten()
                for name, axis, channels in slices
                for position in (channels == channel).nonzero()[:, 0].tolist()
            ]
        )
        torch.testing.assert_close(norms[channel], weights.norm())
        assert sizes[channel] == len(weights)


def test_ssl_pulls_every_group_with_lambda_along_its_weights():
    p = problem()
    scheme, parameters = scheme_of(p), dict(p.model.named_parameters())
    scheme.lam = 1.0
    scheme.penalty(0, LR).backward()
    norms = group_norms(parameters, p.graph, scheme.slices)
    assert float(norms.detach().min()) > 0.02  # all beyond the rounded part: lr * lambda = 0.02
    for name, axis, channels in scheme.slices:
        weight = parameters[name]
        view = [-1 if a == axis else 1 for a in range(weight.ndim)]
        torch.testing.assert_close(weight.grad, weight / norms[channels].view(view))


def test_rounded_off_is_the_distance_beyond_a_width_and_smooth_at_it():
    d = torch.tensor([0.0, 0.05, 0.1, 0.2, 3.0, 0.0, 0.5], requires_grad=True)
    value = rounded_off(d, torch.tensor([0.1] * 5 + [0.0] * 2))
    torch.testing.assert_close(value, torch.tensor([0.05, 0.0625, 0.1, 0.2, 3.0, 0.0, 0.5]))
    value.sum().backward()
    torch.testing.assert_close(d.grad, torch.tensor([0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0]))


@pytest.mark.parametrize("group", range(3))
def test_morphnet_with_a_whole_group_dead_has_finite_slopes_everywhere(group):
    p = problem(MorphNet())
    scheme, parameters = scheme_of(p), dict(p.model.named_parameters())
    part = p.graph.prunable[group]
    with torch.no_grad():
        for norm in p.graph.norms:
            inside = (norm.channels >= part.start) & (norm.channels < part.start + part.size)
            parameters[norm.weight][inside] = 5e-4
    scheme.penalty(0, LR).backward()
    assert bool((scheme.pulls(scheme.distances(parameters)) > 0).all())
    for norm in p.graph.norms:
        assert bool(parameters[norm.weight].grad.isfinite().all()), norm.weight


def test_ssl_counts_biases_and_depthwise_filters_among_a_channel_s_weights():
    """Sizes by hand: a filter of 3 x 3 x 3, a depthwise one of 3 x 3, 16 places that are read."""
    layers = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(64, 2)
    graph = trace(nn.Sequential(*layers), torch.zeros(1, 3, 8, 8))
    for members, size in (("filters", 27), ("producers", 27 + 1 + 9 + 1), ("all", 38 + 2 * 16)):
        assert group_sizes(graph, slices_of(graph, members)).tolist() == [size] * 4


def test_without_a_loss_the_penalty_of_strength_one_empties_the_average_channel():
    """A scalar that SGD moves under slope lambda: at strength 1 it gets to 0, and rests there."""
    train = search_config(epochs=40).train
    length = path_length(train, steps_per_epoch=4)
    assert length == pytest.approx(LR * 160 / 0.1)
    p = problem(SSL(path_length=length), steps=160)
    scheme = scheme_of(p)
    scheme.penalty(0, LR)
    assert scheme.lam is not None
    start = float(scheme.distances(dict(p.model.named_parameters())).detach().mean())
    ends = []
    for strength in (0.5, 1.0, 1.5):
        x = torch.tensor([start], requires_grad=True)
        sgd = torch.optim.SGD([x], lr=LR, momentum=0.9)
        lam = scheme.lam * strength
        for _ in range(40 * 4):
            sgd.zero_grad()
            (lam * rounded_off(x.abs(), torch.tensor([LR * lam]))).sum().backward()
            sgd.step()
        ends.append(float(x.detach()) / start)
    wanted = ((0.5, 0.04), (0.0, 0.08), (0.0, 0.01))  # the momentum takes ten steps to build up
    assert ends == [pytest.approx(end, abs=near) for end, near in wanted]


def test_a_path_that_is_not_told_is_that_of_a_rate_that_falls_to_zero():
    """lr_t = lr (1 - t / T): the sum is lr (T + 1) / 2; and the warm-up does not count."""
    steps, rates = 1000, [LR * (1 - t / 1000) for t in range(1000)]
    lam = []
    for length in (None, sum(rates) / (1 - 0.9)):
        scheme = scheme_of(problem(SSL(path_length=length), steps=steps))
        scheme.penalty(0, LR)
        lam.append(scheme.lam)
    assert lam[0] == pytest.approx(lam[1], rel=2e-3)
    train = search_config(epochs=5).train
    assert path_length(train, 4, warmup_epochs=2) == pytest.approx(LR * 12 / 0.1)


def test_lambda_is_set_in_the_first_step_and_then_stays():
    p = problem()
    scheme = scheme_of(p)
    scheme.penalty(0, LR)
    first = scheme.lam
    with torch.no_grad():
        for q in p.model.parameters():
            q.mul_(0.1)
    scheme.penalty(1, LR / 2)
    assert scheme.lam == first


def some_dead(model: nn.Module) -> nn.Module:
    """The network with a third of the scales of every BatchNorm far below the threshold."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight[::3] *= 1e-5
    return model


def paper_penalty(p: Problem, gates: Tensor) -> float:
    """Gordon et al., equation of section 4.2, layer by layer and channel by channel."""
    total, alive = 0.0, gates > 1e-3
    for layer in p.graph.layers:
        counts, sums = [], []
        for channels in (layer.in_channels, layer.out_channels):
            live, weighed = 0, 0.0
            for c in channels.tolist():
                live += 1 if c < 0 else int(alive[c])
                weighed += 0.0 if c < 0 else float(gates[c])
            counts.append(live)
            sums.append(weighed)
        total += layer.coefficient * (counts[0] * sums[1] + counts[1] * sums[0])
    return total / p.cost.dense


@pytest.mark.parametrize("dead", [False, True])
def test_morphnet_is_the_paper_s_sum_over_convolutions(dead):
    p = problem(MorphNet(), some_dead(trained()) if dead else None)
    scheme = scheme_of(p)
    scheme.lam = 1.0
    gates = scheme.distances(dict(p.model.named_parameters())).detach()
    assert bool((gates > 1e-3).all()) is not dead
    prices = scheme.pulls(gates)
    assert float((gates * prices).sum()) == pytest.approx(paper_penalty(p, gates), rel=1e-5)
    alone = float(scheme.penalty(0, LR).detach())
    widths = 0.02 * prices
    assert alone == pytest.approx(float((prices * rounded_off(gates, widths)).sum()), rel=1e-6)


def test_the_largest_scale_decides_and_alone_is_pulled():
    graph, parameters = graph8(), dict(trained().named_parameters())
    with torch.no_grad():
        for i, norm in enumerate(graph.norms):
            parameters[norm.weight].mul_((-1) ** i)
    scales = largest_scales(parameters, graph)
    scales.sum().backward()
    for channel in (0, 3, 20, 100):
        gammas = [
            (parameters[norm.weight], norm.channels.tolist().index(channel))
            for norm in graph.norms
            if channel in norm.channels.tolist()
        ]
        sizes = [float(gamma.detach()[i].abs()) for gamma, i in gammas]
        assert float(scales.detach()[channel]) == max(sizes)
        slopes = [float(gamma.grad[i].abs()) for gamma, i in gammas]
        assert slopes == [float(size == max(sizes)) for size in sizes]


def test_a_channel_without_batchnorm_has_its_rms_weight():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 10)
    )
    graph = trace(model, torch.zeros(1, 1, 8, 8))
    p = Problem(model, graph, Budget(macs=0.5), STEPS, 0, 0, MorphNet())
    gates = scheme_of(p).importance()
    torch.testing.assert_close(gates[:6], model[0].weight.square().mean((1, 2, 3)).sqrt())


def test_channels_alive_are_kept_raised_to_floors_and_divisor():
    p = problem(MorphNet(), some_dead(trained()))
    scheme = scheme_of(p)
    alive = [
        int((scheme.importance()[g.start : g.start + g.size] > 1e-3).sum())
        for g in p.graph.prunable
    ]
    assert scheme.counts(p.budget).tolist() == alive
    assert min(a / g.size for a, g in zip(alive, p.graph.prunable, strict=True)) < 0.7
    raised = Budget(macs=0.9, floors={"*": 0.8}, divisor=4)
    for count, group in zip(scheme.counts(raised).tolist(), p.graph.prunable, strict=True):
        assert count == min(group.size, -(-max(1, int(-(-0.8 * group.size // 1))) // 4) * 4)
    with torch.no_grad():
        for q in p.model.parameters():
            q.zero_()
    assert scheme.counts(p.budget).min() >= 1


@pytest.mark.parametrize("method", ["ssl", "morphnet"])
def test_a_budget_that_is_missed_is_told(method):
    settings: dict[str, Any] = {method: {"strength": 1e-6, "max_trials": 2}}
    model = trained()
    missed = allocate(method, model, config=search_config(**settings))
    assert missed.whole_ratio("macs") == 1.0
    assert not missed.met
    assert missed.trials == 2
    assert missed.notes["penalty_hit"] is False


@pytest.mark.parametrize(("method", "strength"), [("ssl", 5.0), ("morphnet", 12.0)])
def test_a_strong_penalty_empties_channels_and_they_are_those_cut(method, strength):
    settings: dict[str, Any] = {method: {"strength": strength, "max_trials": 1}}
    model = trained()
    found = allocate(method, model, config=search_config(lr=0.05, epochs=8, **settings))
    assert 0.0 < found.whole_ratio("macs") < 0.9
    assert found.whole_cost("macs") == Cost.of(found.graph, "macs").at(found.counts)
    for group in found.graph.prunable:
        gates = found.importance[group.start : group.start + group.size]
        alive = gates > 1e-3
        if alive.any():
            assert torch.equal(found.keep[group.start : group.start + group.size], alive)
    assert found.updates[0].keep_ratios == (1.0,) * len(found.graph.prunable)
    assert {u.budget for u in found.updates} == {0.5}


def test_all_trials_start_alike_the_best_is_taken_and_its_weights_are_in_the_model():
    """Lambda is set from the weights at the start: it follows the strength alone."""
    model = trained()
    config = search_config(epochs=2, lr=0.1, ssl={"strength": 30.0, "max_trials": 3})
    found = allocate("ssl", model, config=config)
    lambdas = [float(word) for word in found.notes["penalty_lambdas"].split()]
    assert lambdas[1] == pytest.approx(lambdas[0] / 2, rel=1e-5)  # all was cut: half the strength
    assert [e["trial"] for e in found.epochs] == [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]
    assert found.seconds == pytest.approx(sum(e["seconds"] for e in found.epochs))
    costs = [float(word) for word in found.notes["penalty_cost_ratios"].split()]
    taken = best_trial([Trial(1.0, cost) for cost in costs], 0.5)
    assert found.notes["penalty_trial_taken"] == taken + 1
    assert taken + 1 < found.trials == 3  # the last one kept everything
    assert found.whole_ratio("macs") == pytest.approx(costs[taken], rel=1e-5)
    torch.testing.assert_close(scheme_of(problem(SSL(), model)).importance(), found.importance)


def test_stopping_a_trial_ends_the_search():
    config = search_config(ssl={"strength": 1e-6, "max_trials": 3})
    found = allocate("ssl", trained(), config=config, on_step=lambda u: True)
    assert (found.trials, found.notes["stopped"]) == (1, True)


@pytest.mark.parametrize("method", ["ssl", "morphnet"])
def test_interrupted_and_resumed_is_bit_identical(method, tmp_path):
    settings: dict[str, Any] = {method: {"strength": 3.0, "max_trials": 3}}
    config = search_config(epochs=2, lr=0.1, **settings)
    path, whole, model = tmp_path / "search.pt", trained(), trained()
    undisturbed = allocate(method, whole, config=config)
    assert undisturbed.trials == 3
    for n in (3, 4, 3):  # in the first trial, the second, and the third; three looks each
        with pytest.raises(KeyboardInterrupt, match=r"are saved: the same call resumes from "):
            allocate(method, model, config=config, checkpoint=path, on_step=stop_after(n))
        model = fresh(seed=n)  # what is in memory does not matter
    resumed = allocate(method, model, config=config, checkpoint=path)
    assert torch.equal(resumed.counts, undisturbed.counts)
    torch.testing.assert_close(resumed.importance, undisturbed.importance, rtol=0, atol=0)
    torch.testing.assert_close(model.state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert resumed.notes == undisturbed.notes
    first = tmp_path / "search-trial0.pt"
    first.rename(tmp_path / "search-trial1.pt")  # a trial's checkpoint in another one's place
    with pytest.raises(TrainingError, match=r"different run: search method was .*strength\":3\.0"):
        allocate(method, fresh(), config=config, checkpoint=path)


def test_all_trials_run_in_the_format_of_the_first_even_when_resumed(monkeypatch, tmp_path):
    settings: dict[str, Any] = {"ssl": {"strength": 3.0, "max_trials": 3}}
    config = search_config(epochs=2, lr=0.1, precision="auto", channels_last="auto", **settings)
    chosen = iter([Precision("bf16", channels_last=True), FP32, FP32, FP32])
    monkeypatch.setattr(Trainer, "_choose_precision", lambda _: next(chosen))
    path, model = tmp_path / "search.pt", trained()
    with pytest.raises(KeyboardInterrupt):
        allocate("ssl", model, config=config, checkpoint=path, on_step=stop_after(6))
    found = allocate("ssl", fresh(), config=config, checkpoint=path)
    files = [tmp_path / f"search-trial{i}.pt" for i in range(3)]
    saved = [torch.load(file, weights_only=True)["precision"] for file in files]
    assert [Precision(**each) for each in saved] == [Precision("bf16", channels_last=True)] * 3
    assert found.notes["precision"] == "bf16"
    assert len(list(chosen)) == 3  # measured once


def test_a_first_learning_rate_of_zero_tells_no_path_length():
    model = trained()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    pruner = Pruner(model, graph8(), Budget(macs=0.5), steps=4, method=SSL()).attach(optimizer)
    model(torch.zeros(2, 1, 8, 8)).mean().backward()
    with pytest.raises(ConfigError, match=r"ssl: the first learning rate is 0.* set path_length"):
        optimizer.step()
    pruner.detach()
