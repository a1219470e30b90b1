"""Presets: `paper` on a problem whose answer is known, and who searches in `cpu-dense`."""

import re

import pytest
import torch
from problems_budget import all_problems

from dsa_core.budget import budget_at, make_optimizer, sharpness_at, step_scale_at, uniform_ratio
from dsa_core.lab.models import build, example_input
from dsa_core.lab.runs import start
from dsa_core.lab.runs.config import configure
from dsa_core.lab.runs.presets import cpu_dense, cpu_short, imagenet, paper
from dsa_core.training import Precision

UPDATES = 80 * 352 // 20  # of 80 epochs of CIFAR-10, one every 20 batches
NOISE = 0.5  # of the mean slope


def test_the_budget_is_met_while_masks_sharpen_and_ratios_have_the_order_of_the_answer():
    problem, search = all_problems()["quadratic"], paper().search
    floors, ends = problem.floors, {"start": 1.0, "end": problem.budget}
    optimizer = make_optimizer("paper", problem.cost, floors=floors, settings=search.settings)
    draws = torch.Generator().manual_seed(0)
    for t in range(UPDATES):
        asked = budget_at(t, UPDATES, **ends, anneal_fraction=search.anneal_fraction)
        slope = problem.gradient(optimizer.keep_ratios)
        noise = torch.randn(len(slope), generator=draws, dtype=slope.dtype)
        slope = 0.01 * (slope + NOISE * slope.abs().mean() * noise)
        optimizer.step(slope, asked, step_scale=step_scale_at(t, UPDATES))
        if float(problem.cost(optimizer.keep_ratios)) <= problem.budget:
            break
    alpha = optimizer.keep_ratios
    first, last = search.sharpness_first, search.sharpness_last
    assert 3 < sharpness_at(t, UPDATES, first=first, last=last) < 100  # met, and not at the start
    assert torch.equal(alpha.argsort(), problem.optimum.argsort())
    even = uniform_ratio(problem.cost, problem.budget, floors)
    best, found, rival = map(problem.loss, (problem.optimum, alpha, even))
    assert found - best < 0.6 * (rival - best)


def test_cpu_dense_searches_in_a_few_hundred_small_steps_and_tunes_dense_weights() -> None:
    dense, short = cpu_dense(), cpu_short()
    train = dense.search.train
    steps = int(50_000 * dense.weights_fraction) // train.batch_size * train.epochs
    assert 300 < steps < 500  # of CIFAR-10, as many as `compress` takes
    assert dense.fine_tune.epochs == short.search.train.epochs + short.fine_tune.epochs
    assert (dense.cut.weights, dense.cut.rank) == ("dense", "l2")
    assert dense.dense == short.dense


@pytest.mark.parametrize("method", ["dsa", "amc", "uniform", "random", "knapsack"])
def test_where_dense_weights_are_cut_a_method_that_learns_nothing_does_not_search(method):
    learns = method in ("dsa", "amc")
    assert configure("cpu-dense", method=method).preset.search.train.epochs == (1 if learns else 0)
    assert configure("cpu-short", method=method).preset.search.train.epochs == 4
    asked = configure("cpu-dense", method=method, changes={"search.train.epochs": "2"})
    assert asked.preset.search.train.epochs == 2


@pytest.mark.parametrize("preset", [paper(), imagenet()])
def test_sharpness_grows_by_a_tenth_an_epoch_and_the_budget_is_met_while_masks_are_soft(preset):
    search = preset.search
    epochs = search.train.epochs - search.warmup_epochs
    first, last = search.sharpness_first, search.sharpness_last
    reached = [sharpness_at(e, epochs + 1, first=first, last=last) for e in range(epochs + 1)]
    assert reached == pytest.approx([0.05 * 1.1**e for e in range(epochs + 1)])
    assert reached[-1] > 100  # the cut changes little
    assert 3 < reached[round(search.anneal_fraction * epochs)] < 20


@pytest.mark.parametrize(
    ("preset", "method", "bf16_ms", "settings"),
    [
        ("cpu-short", "dsa", 20, ["dense", "search.train", "fine_tune"]),
        ("cpu-dense", "uniform", 20, ["dense", "fine_tune"]),
        ("cpu-short", "dsa", 11, []),
        ("quick", "dsa", 20, []),
    ],
)
def test_a_run_in_bf16_says_where_fp32_is_faster(preset, method, bf16_ms, settings, monkeypatch):
    found = Precision("fp32", True, {"fp32 channels_last": 10, "bf16 channels_last": bf16_ms})
    monkeypatch.setattr(start, "choose_precision", lambda *_, **__: found)
    config = configure(preset, method=method)
    advice = start.slow_format(config, build(config.model), example_input(config.model))
    assert re.findall(r"--set (\S+)\.precision=fp32", advice) == settings
    assert ("2.0 x" in advice) == bool(settings)
