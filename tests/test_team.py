"""Several processes give what one gives with the same global batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dsa_core.errors import ConfigError
from dsa_core.training import (
    Team,
    agreed,
    average,
    mean_and_sum,
    parallel,
    share,
    synchronised,
    team,
    wait,
)

SCRIPT = Path(__file__).with_name("team_search.py")
QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


def run(out: Path, *, processes: int) -> None:
    out.mkdir()
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    start = [] if processes == 1 else launch
    subprocess.run([sys.executable, *start, SCRIPT, out], check=True, env=QUIET, timeout=300)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("team")
    run(folder / "one", processes=1)
    run(folder / "two", processes=2)
    files = ["one/rank0", "two/rank0", "two/rank1"]
    return [load_file(folder / f"{f}.safetensors") for f in files]


@pytest.mark.slow
def test_two_processes_find_the_allocation_of_one(outcomes):
    one, two, _ = outcomes
    assert torch.equal(one["counts"], two["counts"])
    torch.testing.assert_close(one["keep_ratios"], two["keep_ratios"], rtol=1e-3, atol=1e-4)
    assert float((one["keep_ratios"] - one["keep_ratios"].mean()).abs().max()) > 0.01  # it searched


@pytest.mark.slow
def test_two_processes_train_the_weights_of_one(outcomes):
    one, two, _ = outcomes
    for name in one:
        if name not in ("counts", "keep_ratios"):
            torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
def test_all_ranks_hold_the_same(outcomes):
    _, first, second = outcomes
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_alone_nothing_happens():
    x, y = torch.arange(5.0), torch.arange(5)
    assert team() == Team(0, 1)
    assert team().leads
    assert team().alone
    assert share(x, y)[0] is x
    assert agreed("fp32") == "fp32"
    assert mean_and_sum(x, y) == (x, y)
    average([x, None])
    wait()
    assert torch.equal(x, torch.arange(5.0))
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    assert synchronised(model) is model


@pytest.mark.parametrize("size", [2, 3])
def test_shares_are_even_and_make_up_the_batch(monkeypatch, size):
    x, y = torch.arange(12), torch.arange(12) * 10
    rows = []
    for rank in range(size):
        monkeypatch.setattr(parallel, "team", lambda rank=rank: Team(rank, size))
        mine, theirs = share(x, y)
        assert torch.equal(theirs, mine * 10)
        assert len(mine) == 12 // size
        rows += mine.tolist()
    assert sorted(rows) == x.tolist()


def test_a_batch_that_does_not_divide_is_refused(monkeypatch):
    monkeypatch.setattr(parallel, "team", lambda: Team(0, 2))
    with pytest.raises(ConfigError, match=r"batch of 5 .* 2 processes"):
        share(torch.arange(5), torch.arange(5))
