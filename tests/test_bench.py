"""The benchmarks measure what they say: arithmetic, pairs, steps, tables, and the JSON."""

import io
import json
import statistics
import sys

import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from dsa_core.lab.bench import networks, report, soft_topk, tables, tracing
from dsa_core.lab.bench.figures import Figure, figure
from dsa_core.lab.bench.images import made_up, normalised
from dsa_core.lab.bench.networks import Pair, compare, uniform_pair
from dsa_core.lab.bench.profile import PARTS, profile_search
from dsa_core.lab.bench.soft_topk import by_group, by_operator, by_scipy, problem, speedup
from dsa_core.lab.bench.steps import StepTimes, loops
from dsa_core.lab.bench.throughput import AsImages, Loops
from dsa_core.lab.bench.tracing import trace_over_peer, trace_seconds, verification_cost
from dsa_core.lab.calibration import read_calibration
from dsa_core.lab.cli import app
from dsa_core.surgery.verify import count_macs
from dsa_core.training import FP32, Precision

WANTED = {  # what the JSON has to hold
    "soft_topk_speedup_vs_scipy",
    "search_step_ratio_resnet20",
    "search_step_ratio_resnet56",
    "search_step_ratio_mobilenet_v2",
    "train_throughput_ratio",
    "trace_seconds_resnet152",
    "trace_over_torch_pruning",
    "verification_passes",
    "verification_over_two_passes",
    "speedup_over_mac_reduction_resnet20",
}


def test_a_figure_by_hand():
    found = figure([4.0, 1.0, 2.0, 3.0, 5.0], "ms", "a note")
    assert found == Figure(median=3.0, n=5, spread=(2.0, 4.0), unit="ms", note="a note")
    assert figure([2.5], "s").spread == (2.5, 2.5)
    assert figure([1.23456, 1.23456], "s").median == 1.235
    with pytest.raises(ValueError, match="at least one"):
        figure([], "s")


def test_step_ratios_go_round_by_round():
    times = StepTimes([10.0, 20.0], [11.0, 24.0], [20.0, 30.0], "fp32")
    assert times.ratio().median == pytest.approx(statistics.median([1.1, 1.2]))
    assert times.ratio("held_out").median == pytest.approx(statistics.median([2.0, 1.5]))
    assert times.ratio().note == "free updates, fp32"


@pytest.mark.parametrize("temperature", [1.0, 0.05])
def test_peers_compute_the_same(temperature: float):
    arguments = problem(temperature)
    p, grad_s, grad_k = by_operator(*arguments)
    for got, wanted in zip(by_scipy(*arguments), (p, grad_s, grad_k), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    for got, wanted in zip(by_group(*arguments), (p, grad_k), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_speedup_is_the_peers_time_over_ours(monkeypatch):
    assert soft_topk.seconds(by_scipy, problem(0.2), 1) > 0
    costs = {by_scipy: 3.0, by_operator: 2.0}
    monkeypatch.setattr(soft_topk, "seconds", lambda solve, *_: costs[solve])
    found = speedup(by_scipy, temperature=0.2, rounds=3)
    assert (found.median, found.n, found.unit) == (1.5, 3, "times")


@pytest.fixture(scope="module")
def pair() -> Pair:
    return uniform_pair("resnet20", macs=0.5, divisor=8)


def test_a_pair_is_dense_and_pruned(pair: Pair):
    x = torch.zeros(1, 3, 32, 32)
    dense, pruned = count_macs(pair.dense, x), count_macs(pair.pruned, x)
    assert pair.mac_reduction == pytest.approx(dense / pruned)
    assert 2.0 <= pair.mac_reduction < 2.3
    widths = {m.out_channels for m in pair.pruned.modules() if isinstance(m, nn.Conv2d)}
    assert all(width % 8 == 0 for width in widths)
    assert pair.divisor == 8


def test_compare_divides_dense_by_pruned(pair: Pair, monkeypatch):
    monkeypatch.setattr(networks, "forward_times", lambda *_, **__: [[60, 61, 62], [20, 20, 20]])
    row = compare(pair, torch.zeros(5, 3, 32, 32), FP32, repeats=3)
    assert (row.dense.median_ms, row.pruned.min_ms, row.dense.batch) == (61, 20, 5)
    assert (row.speedup.median, row.speedup.n) == (pytest.approx(61 / 20), 3)
    assert row.over_macs.median == pytest.approx(61 / 20 / pair.mac_reduction, rel=1e-3)


def test_the_networks_are_left_as_they_were_and_the_table_has_the_row(pair: Pair):
    before = [p.is_contiguous() for p in pair.dense.parameters()]
    row = compare(pair, torch.zeros(2, 3, 32, 32), Precision("bf16", True), repeats=1)
    assert [p.is_contiguous() for p in pair.dense.parameters()] == before
    screen = Console(width=200, record=True, file=io.StringIO())
    screen.print(tables.latency_table(pair, [row]))
    shown = screen.export_text()
    words = [f"{row.dense.median_ms:.2f}", f"{row.speedup.median:.2f}"]
    assert all(word in shown for word in ("bf16 channels_last", "widths of 8", *words))


def test_the_plain_loop_trains_and_the_others_search_at_the_budget():
    made = loops("resnet20", batch=8, precision=FP32)
    assert made["plain"].pruner is None
    for loop in made.values():
        weight = next(loop.model.parameters())
        before = weight.detach().clone()
        loop.two_steps()
        assert not weight.equal(before)
    for kind, updates in (("free", 2), ("held_out", 1)):
        pruner = made[kind].pruner
        assert pruner.cost["macs"] == pytest.approx(0.5)
        assert len(pruner.history) == 1 + updates


def test_every_part_of_the_profile_is_found():
    rows = {row.part: row for row in profile_search("resnet20", steps=4, every=2, batch=8)}
    assert [part for part, _, _ in PARTS if rows[part].calls == 0] == []
    assert rows["rounding"].calls == 1
    assert rows["drawing the mask"].calls == 4
    assert rows["step of keep ratios"].calls == 2
    assert rows["of that the z-step"].ms <= rows["step of keep ratios"].ms
    assert rows["of that soft_topk"].ms <= rows["keep probabilities"].ms
    for row in rows.values():
        assert row.share == pytest.approx(row.ms / rows["all"].ms)


def test_both_loops_see_the_same_images_normalised_alike():
    images, labels = made_up(6)
    usual = AsImages(images, labels)
    usual.transform.transforms = usual.transform.transforms[2:]  # without crop and flip
    x, y = next(normalised((images, labels), batch_size=6).epoch(0))
    order = normalised((images, labels), batch_size=6).order(0)
    for row, i in enumerate(order.tolist()):
        torch.testing.assert_close(x[row], usual[i][0])
        assert int(y[row]) == usual[i][1]


def test_both_loops_train(monkeypatch):
    monkeypatch.setattr("dsa_core.lab.bench.throughput.BATCH", 8)
    monkeypatch.setattr("dsa_core.lab.bench.throughput.WORKERS", 1)
    loops = Loops("resnet20", steps=2, precision="fp32")
    for model, turn in ((loops.model, loops.ours), (loops.other, loops.usual)):
        before = next(model.parameters()).detach().clone()
        assert turn() > 0
        assert not next(model.parameters()).equal(before)
    assert loops.precision == "fp32"
    assert loops.sgd.param_groups[0]["weight_decay"] == loops.config.weight_decay
    assert loops.sgd.param_groups[0]["nesterov"] is loops.config.nesterov is False


def test_tracing_counts_its_rounds():
    found = trace_seconds("resnet8", rounds=2)
    assert (found.n, found.unit, found.note) == (2, "s", "resnet8")
    assert found.median > 0


def test_tracing_beside_torch_pruning(monkeypatch):
    pytest.importorskip("torch_pruning", reason="torch-pruning is not installed")
    monkeypatch.setattr(tracing, "PEER_NETWORKS", ("resnet8", "resnet20"))
    found = trace_over_peer(rounds=1)["trace_over_torch_pruning"]
    assert (found.n, found.unit) == (2, "times")
    assert found.median > 0


def test_verification_is_one_pair_of_forward_passes(monkeypatch):
    names = ("resnet8", "vgg16_cifar", "mobilenet_v2")
    monkeypatch.setattr(tracing, "PEER_NETWORKS", names)
    found = verification_cost(rounds=1)
    passes = found["verification_passes"]
    assert (passes.median, passes.spread, passes.unit) == (2, (2, 2), "passes")
    assert found["verification_over_two_passes"].n == len(names)


@pytest.mark.parametrize("quick", [True, False])
def test_the_json_has_every_figure(quick: bool, monkeypatch):
    made, small = figure([1.0], "times", "a note"), uniform_pair("resnet8")
    row = compare(small, torch.zeros(1, 1, 8, 8), FP32, repeats=1)
    cost = {"verification_passes": made, "verification_over_two_passes": made}
    for name, found in {
        "speedup": made,
        "step_times": StepTimes([1.0], [1.0], [1.0], "fp32"),
        "train_throughput": (made, made),
        "trace_seconds": made,
        "trace_over_peer": {"trace_over_torch_pruning": made},
        "verification_cost": cost,
        "uniform_pair": small,
        "compare": row,
    }.items():
        monkeypatch.setattr(report, name, lambda *_, it=found, **__: it)
    lines: list[str] = []
    found = json.loads(json.dumps(report.all_figures(quick=quick, report=lines.append)))
    assert set(found) >= WANTED | {"machine", "quick"}
    assert set(found["machine"]) == {"cpu", "cores", "threads", "torch", "gpu", "device"}
    for name, value in found.items():
        if name not in ("machine", "quick"):
            assert set(value) == {"median", "n", "spread", "unit", "note"}, name
    assert found["speedup_over_mac_reduction_resnet20"]["note"].endswith("divisor 1, fp32")
    assert ("speedup_over_mac_reduction_resnet18_cifar_divisor16_bf16" in found) is not quick
    assert found["search_step_ratio_resnet56"]["note"] == "free updates, fp32"
    assert any("resnet152" in line for line in lines)


def test_command_line(tmp_path, monkeypatch):
    run = CliRunner()
    for words in (["bench"], ["bench", "resnet8", "--json"]):
        assert "name a network to measure" in str(run.invoke(app, words).exception)
    found = run.invoke(app, ["bench", "resnet8", "--quick", "--batch", "2", "--macs", "0.5"])
    assert found.exit_code == 0
    lines = [line for line in found.output.splitlines() if "fp32" in line or "bf16" in line]
    assert len([line for line in lines if line.startswith("2")]) == 4
    out = tmp_path / "c.json"
    settings = {"spread": 4, "held_out": 2, "rounds": 1, "passes": 1}
    made = sys.modules["dsa_core.lab.calibration.timing"].CalibrationSettings
    monkeypatch.setattr(
        "dsa_core.lab.calibration.CalibrationSettings",
        lambda divisor: made(divisor=divisor, **settings),
    )
    words = ["calibrate", "resnet8", "--batch", "4", "--divisor", "8", "--out", str(out)]
    found = run.invoke(app, words)
    assert found.exit_code == 0
    calibration = read_calibration(out)
    assert (calibration.divisor, calibration.shape) == (8, (4, 1, 8, 8))
    assert f"{calibration.error_median:.1%}" in found.output
