"""Calibration: the fit against known forms, the widths it times, and budgets of latency."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from problems_runs import found as searched
from torch import nn

from dsa_core.budget import Budget, Cost, round_to_channels
from dsa_core.channels import ChannelGraph
from dsa_core.errors import BudgetError, ConfigError
from dsa_core.lab import models
from dsa_core.lab.bench.cli import check_writable
from dsa_core.lab.calibration import Calibration, CalibrationSettings, calibrate, read_calibration
from dsa_core.lab.calibration.form import corners, fit, sampled, terms
from dsa_core.methods import Allocation
from dsa_core.ranking import importance
from dsa_core.surgery.verify import count_macs
from dsa_core.tracing import trace

MS_PER_MAC, OVERHEAD_MS, MS_PER_CHANNEL = 1e-6, 0.5, 0.01


def network() -> tuple[nn.Module, ChannelGraph, torch.Tensor]:
    torch.manual_seed(0)
    model, x = models.build("resnet8"), models.example_input("resnet8", 4)
    return model, trace(model, x[:1]), x


def channels(model: nn.Module) -> int:
    """Outputs of all layers with a BatchNorm: where elementwise work is done."""
    return sum(m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def made_up(x: torch.Tensor):
    """A clock that knows the answer: overhead + MACs + what BatchNorm touches."""

    def timer(model: nn.Module) -> float:
        macs = count_macs(model, x[:1])
        return OVERHEAD_MS + MS_PER_MAC * macs + MS_PER_CHANNEL * channels(model)

    return timer


@pytest.fixture(scope="module")
def known() -> tuple[nn.Module, ChannelGraph, Calibration]:
    model, graph, x = network()
    return model, graph, calibrate(model, graph, x, timer=made_up(x), name="resnet8")


def test_a_form_of_the_right_terms_is_found_exactly(known):
    model, graph, found = known
    assert found.error_max < 1e-9
    assert found.held_out == 12
    assert found.dense_ms == pytest.approx(made_up(torch.zeros(1, 1, 8, 8))(model))
    macs = Cost.of(graph, "macs").form
    form = found.cost().form.scaled(1e-6)  # nanoseconds -> milliseconds
    torch.testing.assert_close(form.Q, MS_PER_MAC * macs.Q, rtol=1e-6, atol=1e-9)
    norms = torch.zeros(len(graph.prunable), dtype=torch.float64)
    for norm in graph.norms:
        group = torch.bucketize(norm.channels, graph.offsets[1:], right=True)
        norms += torch.bincount(group, minlength=len(norms))
    wanted = MS_PER_MAC * macs.q + MS_PER_CHANNEL * norms
    torch.testing.assert_close(form.q, wanted, rtol=1e-6, atol=1e-9)
    wanted_constant = OVERHEAD_MS + MS_PER_MAC * macs.constant
    assert form.constant == pytest.approx(wanted_constant, rel=1e-6)


def test_the_shortest_visit_counts():
    model, graph, x = network()
    clock, seen = made_up(x), Counter()

    def slow_at_first(model: nn.Module) -> float:
        shapes = tuple(p.shape for p in model.parameters())
        factor = 1.0 if seen[shapes] else 3.0
        seen[shapes] += 1
        return factor * clock(model)

    found = calibrate(model, graph, x, CalibrationSettings(rounds=2), timer=slow_at_first)
    assert found.error_median < 1e-6
    assert sum(seen.values()) == 2 * (found.configurations + found.held_out)


def test_no_coefficient_is_negative_even_where_wider_is_faster():
    model, graph, x = network()
    found = calibrate(model, graph, x, timer=lambda m: 10.0 - 0.01 * channels(m))
    form = found.cost().form
    assert float(form.Q.min()) >= 0
    assert float(form.q.min()) >= 0
    assert form.constant >= 0


def test_fit_is_the_least_squares_solution_where_that_is_positive():
    draw = np.random.default_rng(0)
    alpha, pairs = draw.uniform(0.2, 1, (60, 3)), ((0, 0), (0, 1), (1, 2))
    t = terms(alpha, pairs) @ draw.uniform(1, 2, 7) * np.exp(0.001 * draw.standard_normal(60))
    plain, *_ = np.linalg.lstsq(terms(alpha, pairs) / t[:, None], np.ones(60), rcond=None)
    assert plain.min() > 0
    np.testing.assert_allclose(fit(alpha, t, pairs), plain, rtol=1e-6)


def test_terms_by_hand():
    found = terms(np.array([[0.5, 0.25]]), ((0, 1), (1, 1)))
    np.testing.assert_allclose(found, [[1, 0.5, 0.25, 0.125, 0.0625]])


@pytest.mark.parametrize("divisor", [1, 8])
def test_widths_are_allowed_and_reach_from_low_to_high(divisor: int):
    sizes = torch.tensor([16, 32, 60])
    found = sampled(sizes, 40, lowest=0.1, divisor=divisor, seed=3)
    assert bool(((found >= 1) & (found <= sizes)).all())
    assert bool(((found % divisor == 0) | (found == sizes)).all())
    share = (found / sizes).double().mean(1)
    assert float(share.min()) < 0.3
    assert float(share.max()) > 0.9
    spread = (found / sizes).double()
    assert bool((spread.std(0) > 0.15).all())
    assert float(torch.corrcoef(spread.T)[0, 1]) < 0.95  # groups do not only move together
    assert found.equal(sampled(sizes, 40, lowest=0.1, divisor=divisor, seed=3))


def test_corners_by_hand():
    found = corners(torch.tensor([16, 32]), lowest=0.1, divisor=8)
    assert found.tolist() == [[16, 32], [8, 8], [8, 32], [16, 8]]


def test_milliseconds_are_the_same_budget_as_their_ratio(known):
    _, _, found = known
    half = Budget(latency_ms=found.dense_ms / 2, calibrated=found.cost())
    assert half.ratio == pytest.approx(0.5, abs=1e-6)
    assert half.resource == "latency"
    with pytest.raises(BudgetError, match=r"ratio in \(0, 1\], got 2"):
        Budget(latency_ms=2 * found.dense_ms, calibrated=found.cost())


def test_allocation_under_latency(known):
    model, graph, found = known
    budget = Budget(latency=0.7, calibrated=found.cost())
    alpha = torch.full((len(graph.sizes),), 0.8, dtype=torch.float64)
    counts = round_to_channels(alpha, budget.cost(graph), budget)
    b = importance(model, graph)
    (look, *_) = searched("dsa").updates
    way = [
        replace(look, budget=r, keep_ratios=(a,) * len(alpha)) for r, a in ((1, 1.0), (0.7, 0.8))
    ]
    allocation = Allocation("uniform", graph, budget, alpha, b, counts, updates=tuple(way))
    assert allocation.met
    assert allocation.whole_ratio("latency") <= 0.7
    assert allocation.whole_cost("macs") == Cost.of(graph, "macs").at(counts)
    lower = allocation.at(latency=0.8)
    assert 0.75 < lower.whole_ratio("latency") <= 0.8
    assert lower.budget.calibrated is budget.calibrated
    by_macs = allocation.at(macs=0.9)
    assert by_macs.whole_ratio("macs") == by_macs.whole_cost("macs") / Cost.of(graph, "macs").dense


def test_latency_needs_a_calibration_of_this_network(known):
    _, _, found = known
    model = models.build("resnet20")
    other = trace(model, models.example_input("resnet20"))
    with pytest.raises(BudgetError, match="of another network"):
        Budget(latency=0.5, calibrated=found.cost()).cost(other)
    for calibrated in (None, Cost.of(other, "macs")):
        with pytest.raises(BudgetError, match="what a channel costs on this machine"):
            Budget(latency=0.5, calibrated=calibrated)


def test_text_of_a_budget_tells_calibrations_apart_and_old_ones_stay(known):
    _, _, found = known
    other = found.model_copy(update={"constant_ms": 2 * found.constant_ms})
    texts = [repr(Budget(latency=0.5, calibrated=c.cost())) for c in (found, other, found)]
    assert texts[0] == texts[2] != texts[1]
    assert repr(Budget(macs=0.5)) == "Budget(macs=0.5, params=None, floors={}, divisor=1)"


def test_written_and_read_again(known, tmp_path: Path):
    _, _, found = known
    path = tmp_path / "here" / "calibration.json"
    found.write(path)
    assert read_calibration(path) == found
    path.write_text(path.read_text().replace('"groups"', '"gruops"'))
    with pytest.raises(ConfigError, match="groups"):
        read_calibration(path)
    with pytest.raises(ConfigError, match="dsa calibrate"):
        read_calibration(tmp_path / "none.json")


def test_it_holds_for_one_machine_shape_and_divisor(known):
    _, _, found = known
    elsewhere = found.model_copy(update={"device": "CPU, 64 threads, another"})
    found.check(found.model, torch.zeros(1, 1, 8, 8), 1)
    with pytest.raises(ConfigError, match=f"the network was {found.model}, and is other"):
        found.check("other", torch.zeros(1, 1, 8, 8), 1)
    for calibration, size, divisor, words in (
        (found, 8, 8, "divisor was 1, and is 8"),
        (found, 16, 1, "shape of an example"),
        (elsewhere, 8, 1, "64 threads"),
    ):
        with pytest.raises(ConfigError, match=words):
            calibration.check(calibration.model, torch.zeros(1, 1, size, size), divisor)


def test_by_the_real_clock():
    model, graph, x = network()
    visits: list[tuple[int, int]] = []
    settings = CalibrationSettings(spread=6, held_out=2, rounds=1, passes=1)
    found = calibrate(model, graph, x, settings, on_visit=lambda done, n: visits.append((done, n)))
    assert found.dense_ms > 0
    assert found.configurations == 2 + len(graph.prunable) + 6
    assert visits[-1] == (found.configurations + 2,) * 2
    assert found.cost().dense > 0
    assert "CPU" in found.device


def test_a_file_that_cannot_be_written_or_is_of_another_is_known_before_the_timing(known, tmp_path):
    path = tmp_path / "calibration.json"
    known[2].write(path)
    check_writable(path, "resnet8")
    with pytest.raises(ConfigError, match="is the calibration of 'resnet8': name another"):
        check_writable(path, "resnet20")
    with pytest.raises(ConfigError, match="is not a folder"):
        check_writable(path / "a.json", "resnet20")
