"""SSL and MorphNet: the penalties are the papers', the trials are counted, and misses are told."""

from functools import cache
from typing import Any

import pytest
import torch
from problems_runs import allocate, fresh, graph8, search_config, stop_after, trained
from torch import Tensor, nn

from dsa_core.budget import Budget, Cost
from dsa_core.errors import TrainingError
from dsa_core.methods import SSL, Allocation, MorphNet
from dsa_core.methods.bracket import Trial, best_trial, next_strength
from dsa_core.methods.morphnet import largest_scales
from dsa_core.methods.penalised import Penalty, PenaltyScheme, rounded_off
from dsa_core.methods.ssl import group_norms, group_sizes, slices_of
from dsa_core.methods.trials import path_length
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
    found = p.method.scheme(p)
    assert isinstance(found, PenaltyScheme)
    return found


def parameters_of(p: Problem) -> dict[str, Tensor]:
    return dict(p.model.named_parameters())


def channel_weights(p: Problem, channel: int, slices) -> Tensor:
    """All weights of one channel in one vector, found entry by entry."""
    found, parameters = [], parameters_of(p)
    for name, axis, channels in slices:
        for position, here in enumerate(channels.tolist()):
            if here == channel:
                found.append(parameters[name].select(axis, position).flatten())
    return torch.cat(found)


def quiet(scheme):
    """The scheme with lambda 1."""
    scheme.lam = 1.0
    return scheme


@pytest.mark.parametrize("members", ["filters", "producers", "all"])
def test_group_norms_are_those_of_each_channel(members):
    p = problem()
    slices = slices_of(p.graph, members)
    norms = group_norms(parameters_of(p), p.graph, slices)
    sizes = group_sizes(p.graph, slices)
    for channel in (0, 5, 16, 17, 40, 150, p.graph.n_channels - 1):
        weights = channel_weights(p, channel, slices)
        torch.testing.assert_close(norms[channel], weights.norm())
        assert sizes[channel] == len(weights)


def test_the_members_of_a_group():
    """One channel of the stem's group: 1x3x3 + 16x3x3 weights make it, 16 + 32x2 rows read it."""
    p = problem()
    filters = slices_of(p.graph, "filters")
    count = {
        m: group_sizes(p.graph, slices_of(p.graph, m)) for m in ("filters", "producers", "all")
    }
    members = [name for name, _, channels in filters if 0 in channels.tolist()]
    assert len(members) == len(p.graph.prunable[0].members)
    # BatchNorm adds a scale and a shift for each member
    torch.testing.assert_close(
        count["producers"][0] - count["filters"][0], torch.tensor(2.0 * len(members))
    )
    readers = sum(
        parameters_of(p)[name].select(axis, 0).numel()
        for name, axis, channels in p.graph.consumers
        if 0 in channels.tolist()
    )
    assert count["all"][0] - count["producers"][0] == readers


def test_ssl_pulls_every_group_with_lambda_along_its_weights():
    p = problem()
    scheme = quiet(scheme_of(p))
    parameters = parameters_of(p)
    scheme.penalty(0, LR).backward()
    norms = group_norms(parameters, p.graph, scheme.slices)
    assert float(norms.detach().min()) > 0.02  # all beyond the rounded part: lr * lambda = 0.02
    for name, axis, channels in scheme.slices:
        weight = parameters[name]
        view = [-1 if a == axis else 1 for a in range(weight.ndim)]
        torch.testing.assert_close(weight.grad, weight / norms[channels].view(view))


def test_ssl_at_zero_has_no_slope():
    model = trained()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    quiet(scheme_of(problem(model=model))).penalty(0, LR).backward()
    assert all(bool((q.grad == 0).all()) for q in model.parameters() if q.grad is not None)


def test_rounded_off_is_the_distance_beyond_a_width_and_smooth_at_it():
    d = torch.tensor([0.0, 0.05, 0.1, 0.2, 3.0], requires_grad=True)
    value = rounded_off(d, torch.full((5,), 0.1))
    torch.testing.assert_close(value, torch.tensor([0.05, 0.0625, 0.1, 0.2, 3.0]))
    value.sum().backward()
    torch.testing.assert_close(d.grad, torch.tensor([0.0, 0.5, 1.0, 1.0, 1.0]))


def test_a_width_of_zero_rounds_nothing_off_and_leaves_a_finite_slope():
    d = torch.tensor([0.0, 0.5], requires_grad=True)
    rounded_off(d, torch.zeros(2)).sum().backward()
    assert d.grad is not None
    torch.testing.assert_close(d.grad, torch.tensor([1.0, 1.0]))


@pytest.mark.parametrize("group", range(3))
def test_morphnet_with_a_whole_group_dead_has_finite_slopes_everywhere(group):
    p = problem(MorphNet())
    scheme = scheme_of(p)
    part = p.graph.prunable[group]
    with torch.no_grad():
        for norm in p.graph.norms:
            inside = (norm.channels >= part.start) & (norm.channels < part.start + part.size)
            parameters_of(p)[norm.weight][inside] = 5e-4
    scheme.penalty(0, LR).backward()
    assert bool((scheme.pulls(scheme.distances(parameters_of(p))) > 0).all())
    for norm in p.graph.norms:
        slope = parameters_of(p)[norm.weight].grad
        assert slope is not None, norm.weight
        assert bool(slope.isfinite().all()), norm.weight


def test_ssl_counts_biases_and_depthwise_filters_among_a_channel_s_weights():
    class Plain(nn.Sequential):
        """Without BatchNorm; the second layer acts on each channel alone."""

        def __init__(self) -> None:
            super().__init__(
                nn.Conv2d(3, 4, 3),
                nn.Conv2d(4, 4, 3, groups=4),
                nn.Flatten(),
                nn.Linear(4 * 4 * 4, 2),
            )

    graph = trace(Plain(), torch.zeros(1, 3, 8, 8))
    names = {name for name, _, _ in slices_of(graph, "producers")}
    assert names == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert {name for name, _, _ in slices_of(graph, "filters")} == {"0.weight"}
    # a filter of 3 x 3 x 3 and its bias, a depthwise filter of 3 x 3 and its bias
    assert group_sizes(graph, slices_of(graph, "producers")).tolist() == [27 + 1 + 9 + 1] * 4


def test_without_a_loss_the_penalty_of_strength_one_empties_the_average_channel():
    """A scalar that SGD moves under slope lambda: at strength 1 it gets to 0, and rests there."""
    train = search_config(epochs=40).train
    length = path_length(train, steps_per_epoch=4)
    assert length == pytest.approx(LR * 160 / 0.1)
    p = problem(SSL(path_length=length), steps=160)
    scheme = scheme_of(p)
    scheme.penalty(0, LR)
    assert scheme.lam is not None
    start = float(group_norms(parameters_of(p), p.graph, slices_of(p.graph, "producers")).mean())
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
    assert ends[0] == pytest.approx(0.5, abs=0.04)  # the momentum takes ten steps to build up
    assert ends[1] == pytest.approx(0.0, abs=0.08)
    assert abs(ends[2]) < 0.01


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
    p = problem(SSL(strength=2.0))
    scheme = scheme_of(p)
    assert scheme.lam is None
    scheme.penalty(0, LR)
    first = scheme.lam
    with torch.no_grad():
        for q in p.model.parameters():
            q.mul_(0.1)
    scheme.penalty(1, LR / 2)
    assert scheme.lam == first
    other = scheme_of(problem(SSL(strength=1.0)))
    other.penalty(0, LR)
    assert other.lam == pytest.approx(first / 2)


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
    scheme = quiet(scheme_of(p))
    gates = scheme.distances(parameters_of(p)).detach()
    assert bool((gates > 1e-3).all()) is not dead
    prices = scheme.pulls(gates)
    assert float((gates * prices).sum()) == pytest.approx(paper_penalty(p, gates), rel=1e-5)
    alone = float(scheme.penalty(0, LR).detach())
    widths = 0.02 * prices
    assert alone == pytest.approx(float((prices * rounded_off(gates, widths)).sum()), rel=1e-6)


def test_a_price_is_what_one_more_channel_costs():
    """F is quadratic: half the difference over two steps is its slope exactly."""
    for resource in ("macs", "params"):
        p = problem(MorphNet(), budget=Budget(**{resource: 0.5}))
        cost, prices = p.cost, scheme_of(p).pulls(torch.ones(p.graph.n_channels))
        for k, group in enumerate(p.graph.prunable):
            step = torch.zeros_like(cost.sizes)
            step[k] = 1
            difference = (cost.at(cost.sizes + step) - cost.at(cost.sizes - step)) / 2 / cost.dense
            assert float(prices[group.start]) == pytest.approx(difference, rel=1e-4)


def test_the_largest_scale_decides_and_alone_is_pulled():
    model, graph = trained(), graph8()
    with torch.no_grad():
        for i, norm in enumerate(graph.norms):
            dict(model.named_parameters())[norm.weight].mul_((-1) ** i)
    parameters = dict(model.named_parameters())
    scales = largest_scales(parameters, graph)
    scales.sum().backward()
    held = [(n.weight, c) for n in graph.norms for c in [n.channels.tolist()]]
    for channel in (0, 3, 20, 100):
        values = {
            w: abs(float(parameters[w].detach()[c.index(channel)])) for w, c in held if channel in c
        }
        assert float(scales.detach()[channel]) == pytest.approx(max(values.values()), rel=1e-6)
        for weight, c in held:
            if channel in c:
                slope = float(parameters[weight].grad[c.index(channel)])
                assert abs(slope) == (1.0 if values[weight] == max(values.values()) else 0.0)


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
    assert found.updates[-1].cost <= 1.0


@cache
def three_trials() -> tuple[nn.Module, Allocation]:
    model = trained()
    config = search_config(epochs=2, lr=0.1, ssl={"strength": 30.0, "max_trials": 3})
    return model, allocate("ssl", model, config=config)


def test_all_trials_start_alike_and_all_are_counted():
    """Lambda is set from the weights at the start: it follows the strength alone."""
    found, told = three_trials()[1], SSL()
    lambdas, costs = (
        [float(word) for word in found.notes[f"penalty_{what}"].split()]
        for what in ("lambdas", "cost_ratios")
    )
    tried: list[Trial] = []
    for cost in costs:
        strength = next_strength(
            tried, 0.5, first=30.0, factor=told.factor, tolerance=told.tolerance
        )
        tried.append(Trial(strength, cost))
    assert lambdas == pytest.approx([lambdas[0] / 30 * t.strength for t in tried], rel=1e-5)
    assert found.trials == len(tried) == 3
    assert [e["trial"] for e in found.epochs] == [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]
    assert found.seconds == pytest.approx(sum(e["seconds"] for e in found.epochs))


def test_the_taken_trial_is_the_best_and_its_weights_are_in_the_model():
    model, found = three_trials()
    costs = [float(word) for word in found.notes["penalty_cost_ratios"].split()]
    taken = best_trial([Trial(1.0, cost) for cost in costs], 0.5)
    assert found.notes["penalty_trial_taken"] == taken + 1
    assert taken + 1 < found.trials  # the last one kept everything
    assert found.whole_ratio("macs") == pytest.approx(costs[taken], rel=1e-5)
    torch.testing.assert_close(scheme_of(problem(SSL(), model)).importance(), found.importance)


def test_stopping_a_trial_ends_the_search():
    settings: dict[str, Any] = {"ssl": {"strength": 1e-6, "max_trials": 3}}
    found = allocate("ssl", trained(), config=search_config(**settings), on_step=lambda u: True)
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
