"""Several processes give what one gives with the same global batch."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from problems_runs import write_folder
from safetensors.torch import load_file
from torch import nn

from dsa_core.errors import ConfigError
from dsa_core.lab.record_files import read_record
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

SCRIPT = Path(__file__).with_name("processes_search.py")
QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


def run(out: Path, *, processes: int) -> None:
    out.mkdir()
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    start = [] if processes == 1 else launch
    subprocess.run([sys.executable, *start, SCRIPT, out], check=True, env=QUIET, timeout=300)


one_outcome = pytest.mark.xdist_group("processes")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("process_group")
    write_folder(folder / "images", train=4, val=3)
    run(folder / "one", processes=1)
    run(folder / "two", processes=2)
    files = ["one/rank0", "two/rank0", "two/rank1"]
    return [load_file(folder / f"{f}.safetensors") for f in files]


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
    x, y = torch.arange(5.0), torch.arange(5)
    assert process_group() == ProcessGroup(0, 1)
    assert process_group().is_main
    assert process_group().is_single
    assert torch.equal(share(x, y)[0], x)
    assert agreed("fp32") == "fp32"
    assert mean_and_sum(x, y) == (x, y)
    average([x, None])
    wait()
    assert torch.equal(x, torch.arange(5.0))


@pytest.mark.parametrize("size", [2, 3])
def test_shares_are_even_and_make_up_the_batch(monkeypatch, size):
    x, y = torch.arange(12), torch.arange(12) * 10
    rows = []
    for rank in range(size):
        monkeypatch.setattr(parallel, "process_group", lambda rank=rank: ProcessGroup(rank, size))
        mine, theirs = share(x, y)
        assert torch.equal(theirs, mine * 10)
        assert len(mine) == 12 // size
        rows += mine.tolist()
    assert sorted(rows) == x.tolist()


def test_a_batch_that_does_not_divide_is_refused(monkeypatch):
    monkeypatch.setattr(parallel, "process_group", lambda: ProcessGroup(0, 2))
    with pytest.raises(ConfigError, match=r"batch of 5 .* 2 processes"):
        share(torch.arange(5), torch.arange(5))
