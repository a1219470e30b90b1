"""Runs under a budget of latency: configuration, command line, and what the record says."""

from functools import cache
from pathlib import Path

import pytest
import torch
from problems_runs import graph8, tiny_run
from pydantic import ValidationError

from dsa_core.budget import Cost
from dsa_core.errors import BudgetError, ConfigError
from dsa_core.lab import models
from dsa_core.lab.calibration import Calibration, CalibrationSettings, calibrate
from dsa_core.lab.options import parse_budget
from dsa_core.lab.runs import configure, run
from dsa_core.surgery.verify import count_macs

BATCH = 32


@cache
def calibration() -> Calibration:
    """Of a clock by which a million MACs take a millisecond, and everything else 0.05 ms."""
    model, x = models.build("resnet8"), torch.zeros(BATCH, 1, 8, 8)
    return calibrate(
        model,
        graph8(),
        x,
        CalibrationSettings(rounds=1),
        name="resnet8",
        timer=lambda m: 0.05 + 1e-6 * count_macs(m, x[:1]),
    )


def test_a_whole_run(tmp_path: Path):
    config = tiny_run(resource="latency", ratio=0.6, calibration=calibration())
    record = run(config, tmp_path, progress=False)
    found, clock = record.costs["latency"], record.latency
    assert (record.resource, record.asked_ratio, found.asked_ratio) == ("latency", 0.6, 0.6)
    assert found.relaxed_ratio == pytest.approx(0.6, abs=1e-6)
    assert found.whole <= 0.6 * calibration().cost().dense
    # what counts is the clock, not the prediction
    assert found.dense == round(1e6 * clock["dense"].median_ms)
    assert found.counted == round(1e6 * clock["pruned"].median_ms)
    assert record.budget_met == (found.counted <= (0.6 + 1e-9) * found.dense)
    assert {latency.batch for latency in clock.values()} == {BATCH}
    # by this calibration latency is MACs and a constant, so the MACs follow
    macs = record.costs["macs"]
    assert macs.asked_ratio is None
    predicted = 50_000 + macs.counted  # nanoseconds
    assert found.whole == pytest.approx(predicted, rel=1e-6)
    assert run(config, tmp_path, progress=False) == record


def test_a_run_elsewhere_is_refused_before_anything_is_trained(tmp_path: Path):
    other = calibration().model_copy(update={"device": "CPU, 64 threads, another"})
    with pytest.raises(ConfigError, match="64 threads"):
        run(tiny_run(resource="latency", calibration=other), tmp_path, progress=False)
    with pytest.raises(ConfigError, match="divisor was 1, and is 8"):
        run(tiny_run(resource="latency", calibration=calibration(), divisor=8), tmp_path)
    assert not list(tmp_path.glob("**/*.pt"))


def test_latency_and_calibration_come_together():
    with pytest.raises(ValidationError, match="the budget is of latency"):
        tiny_run(resource="latency")
    with pytest.raises(ValidationError, match="the budget is of macs"):
        tiny_run(calibration=calibration())
    with pytest.raises(BudgetError, match="dsa calibrate"):
        configure("quick", resource="latency")


def test_the_hash_knows_the_calibration_and_old_hashes_stay(tmp_path: Path):
    path = tmp_path / "calibration.json"
    calibration().write(path)
    one = configure("quick", resource="latency", ratio=0.6, calibration=path)
    assert one.calibration == calibration()
    slower = calibration().model_copy(update={"constant_ms": 7.0})
    slower.write(path)
    assert configure("quick", resource="latency", ratio=0.6, calibration=path).hash != one.hash
    assert "latency0.6" in one.folder
    assert "calibration" not in configure("quick").text()


def test_budget_on_the_command_line(tmp_path: Path):
    path = tmp_path / "calibration.json"
    calibration().write(path)
    dense = calibration().cost().dense / 1e6
    assert dense == pytest.approx(0.05 + 1e-6 * Cost.of(graph8(), "macs").dense, rel=1e-6)
    assert parse_budget("latency=0.6") == ("latency", 0.6)
    resource, ratio = parse_budget(f"latency_ms={dense / 4}", path)
    assert resource == "latency"
    assert ratio == pytest.approx(0.25)
    for text, file in [("latency_ms=0.5", None), (f"latency_ms={2 * dense}", path)]:
        with pytest.raises(BudgetError, match="latency_ms=TIME up to that of the dense"):
            parse_budget(text, file)
