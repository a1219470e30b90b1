"""Several processes give what one gives with the same global batch."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from problems_runs import TASK, digits, write_folder
from processes import in_processes
from torch import Tensor, nn

from dsa_core.budget import Budget
from dsa_core.errors import ConfigError
from dsa_core.lab.data import load, split
from dsa_core.lab.record_files import read_record
from dsa_core.methods import ALLOCATORS, SearchConfig, SearchData
from dsa_core.tracing import trace
from dsa_core.training import TrainConfig, evaluate, train
from dsa_core.training import processes as parallel
from dsa_core.training.processes import (
    ProcessGroup,
    agreed,
    average,
    mean_and_sum,
    process_group,
    share,
    wait,
)

QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
PLAIN = {"lr": 0.05, "batch_size": 64}


def network(channels: int = 1) -> nn.Module:
    """A small network without BatchNorm, whose statistics would differ between shares."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def trained_on(path: Path) -> dict[str, Tensor]:
    """Train on a folder of images, and test on five of them: batches of 2, 2 and 1."""
    folder = load(f"folder:{path}", workers=1)
    model = network(3)
    config = TrainConfig(epochs=2, ema=0.5, **PLAIN)
    train(model, folder.batches("train", batch_size=4), TASK, config, seed=0, progress=False)
    test = folder.batches("test", batch_size=2, indices=torch.arange(5))
    found = evaluate(model, test, TASK)
    measured = {"tested": torch.tensor([found.loss, found.score, found.n])}
    return measured | {f"images.{name}": value for name, value in model.state_dict().items()}


def searched(rank: int, size: int, out: Path) -> dict[str, Tensor]:
    """Train one epoch, search one, and train on images: what comes out on this rank."""
    model = network()
    graph = trace(model, torch.zeros(1, 1, 8, 8))
    some = {"batch_size": 64, "drop_last": True}
    weights, ratios = split(digits().count("train"), 0.8, seed=0)
    every, fitted, held_out = (
        digits().batches("train", indices=indices, seed=seed, **some)
        for seed, indices in enumerate((None, weights, ratios), start=1)
    )
    dense = train(
        model, every, TASK, TrainConfig(epochs=1, **PLAIN), seed=0, progress=False,
        checkpoint=out / f"dense{size}.pt",
    )  # fmt: skip
    data = SearchData(fitted, held_out, TASK, checkpoint=out / f"search{size}.pt", progress=False)
    config = SearchConfig(train=TrainConfig(epochs=1, **PLAIN), ratio_every=2)
    found = ALLOCATORS["dsa"](model, graph, Budget(macs=0.5), data, config, seed=0)
    tensors = {**model.state_dict(), "keep_ratios": found.keep_ratios, "counts": found.counts}
    history = [*dense.history, *found.epochs]
    tensors["losses"] = torch.tensor([e["train_loss"] for e in history])
    tensors["scores"] = torch.tensor([e["train_score"] for e in history])
    return tensors | trained_on(out / "images")


one_outcome = pytest.mark.xdist_group("processes")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    out = tmp_path_factory.mktemp("process_group")
    write_folder(out / "images", train=4, val=3)
    return in_processes(searched, 1, out) + in_processes(searched, 2, out)


@one_outcome
@pytest.mark.slow
def test_two_processes_find_the_allocation_of_one(outcomes):
    one, two, _ = outcomes
    assert torch.equal(one["counts"], two["counts"])
    torch.testing.assert_close(one["keep_ratios"], two["keep_ratios"], rtol=1e-3, atol=1e-4)
    assert float((one["keep_ratios"] - one["keep_ratios"].mean()).abs().max()) > 0.01  # it searched


@one_outcome
@pytest.mark.slow
def test_two_processes_train_the_weights_of_one(outcomes):
    one, two, _ = outcomes
    for name in one:
        if name not in ("counts", "keep_ratios"):
            torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-4, msg=name)


@one_outcome
@pytest.mark.slow
def test_all_ranks_hold_the_same(outcomes):
    _, first, second = outcomes
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def launch(out: Path) -> list[str | Path]:
    """Two processes of `dsa run` on the digits, as a user would start them."""
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=2"]
    rest = ["--num_machines=1", "--mixed_precision=no", "--main_process_port=0"]
    job = ["-m", "dsa_core", "run", "--preset", "tiny", "--out", out, "--quiet"]
    return [*accelerate, *rest, "--dynamo_backend=no", *job]


def ranks(launcher: int) -> list[int]:
    """Process numbers of the ranks that a launcher has started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(c) for c in children if b"dsa_core" in Path(f"/proc/{c}/cmdline").read_bytes()]


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_run_and_the_same_command_goes_on(tmp_path):
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(launch(tmp_path / "runs"), env=QUIET, stderr=log, stdout=log)
        deadline = time.monotonic() + 240
        while not list(tmp_path.glob("runs/*/checkpoints/search.pt")):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(ranks(process.pid)[-1], signal.SIGKILL)
        assert process.wait(timeout=120) != 0
    assert "SIGKILL" in (tmp_path / "log").read_text()
    assert not list(tmp_path.glob("runs/resnet8*/record.json"))
    done = subprocess.run(
        launch(tmp_path / "runs"), env=QUIET, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("record:") == 1  # one process tells
    (path,) = tmp_path.glob("runs/resnet8*/record.json")
    assert read_record(path).budget_met


@pytest.mark.parametrize(("size", "gpu"), [(2, True), (2, False), (1, True)])
def test_batchnorm_on_gpus_is_synced_in_a_training_and_then_as_it_was(monkeypatch, size, gpu):
    monkeypatch.setattr(parallel, "process_group", lambda: ProcessGroup(0, size))
    monkeypatch.setattr(parallel, "on_gpu", lambda module: gpu)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm2d(2)))
    norms, x, before = [model[1], model[2][0]], torch.randn(4, 1, 3, 3), vars(model[1]).copy()
    wanted = model(x)
    with parallel.synced_batchnorm(model):
        kind = nn.SyncBatchNorm if gpu and size == 2 else nn.BatchNorm2d
        assert [type(norm) for norm in norms] == [kind, kind]
        torch.testing.assert_close(model(x), wanted, rtol=0, atol=0)  # torch's own falls back
    assert [type(norm) for norm in norms] == [nn.BatchNorm2d, nn.BatchNorm2d]
    assert vars(model[1]).keys() == before.keys()


def test_alone_nothing_happens():
    x = torch.arange(5.0)
    assert process_group() == ProcessGroup(0, 1)
    assert process_group().is_main
    assert process_group().is_single
    assert torch.equal(share(x), x)
    assert agreed("fp32") == "fp32"
    assert mean_and_sum(x, x) == (x, x)
    average([x])
    wait()
    assert torch.equal(x, torch.arange(5.0))


@pytest.mark.parametrize("size", [2, 3])
def test_shares_are_even_and_make_up_the_batch(monkeypatch, size):
    x, rows = torch.arange(12), []
    for rank in range(size):
        monkeypatch.setattr(parallel, "process_group", lambda rank=rank: ProcessGroup(rank, size))
        mine = share(x).tolist()
        assert share(x.tolist()) == mine
        assert len(mine) == 12 // size
        rows += mine
    assert sorted(rows) == x.tolist()


def test_a_batch_that_does_not_divide_is_refused(monkeypatch):
    monkeypatch.setattr(parallel, "process_group", lambda: ProcessGroup(0, 2))
    with pytest.raises(ConfigError, match=r"batch of 5 .* 2 processes"):
        share(torch.arange(5))
