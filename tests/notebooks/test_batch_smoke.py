"""Notebook 05 as a batch, killed in the middle of its search, then started again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
import torch

import dsa_core as dsa
from dsa_core.lab.batch.spec import jobs_of, read_spec
from dsa_core.lab.batch.state import read_state
from dsa_core.lab.record import Record

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "13_full_run.ipynb"
GRID = f"notebook: {NOTEBOOK}\nparameters: {{preset: tiny}}\n"
# what differs from one run to the next
MEASURED = {
    **dict.fromkeys(("seconds", "processor_seconds", "latency", "git_commit"), True),
    "search": {"epoch_seconds"},
}


@pytest.fixture
def one_thread():
    """Sums depend on the number of threads; the batch below is given one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dsa_core", "batch", "grid.yaml"]
    return subprocess.Popen(
        command, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True
    )


def wait_for_file(home: Path, name: str, process: subprocess.Popen[bytes]) -> Path:
    end = time.monotonic() + 900
    while not list(home.rglob(name)):
        assert process.poll() is None, f"the batch ended before it wrote {name}"
        assert time.monotonic() < end, f"{name} did not appear"
        time.sleep(0.05)
    return next(iter(home.rglob(name)))


def wait_for_epochs(checkpoint: Path, epochs: int) -> None:
    """The file is written once before the search, then after each epoch."""
    for _ in range(epochs):
        before, end = checkpoint.stat().st_mtime_ns, time.monotonic() + 300
        while checkpoint.stat().st_mtime_ns == before:
            assert time.monotonic() < end, "no epoch was saved"
            time.sleep(0.01)


def facts(record: Record) -> dict[str, object]:
    return record.model_dump(exclude=MEASURED)


@pytest.mark.slow
def test_a_killed_batch_goes_on_and_ends_with_the_record_of_an_undisturbed_run(
    tmp_path, one_thread
):
    (tmp_path / "grid.yaml").write_text(GRID)
    home = tmp_path / "runs" / "grid"
    batch = start(tmp_path)
    checkpoint = wait_for_file(home, "search.pt", batch)
    wait_for_epochs(checkpoint, 2)
    family = psutil.Process(batch.pid).children(recursive=True)
    assert any("ipykernel" in " ".join(process.cmdline()) for process in family)
    os.kill(batch.pid, signal.SIGKILL)  # of the batch alone: its worker and kernel go with it
    batch.wait()
    assert psutil.wait_procs(family, 20)[1] == []
    job = jobs_of(read_spec(tmp_path / "grid.yaml"))[0]
    assert read_state(home / job.id, job).state == "running"  # of a batch that is no more
    assert not (home / job.id / "record.json").exists()
    dense = next(home.rglob("dense.json"))
    stamp = dense.stat().st_mtime_ns

    assert start(tmp_path).wait(900) == 0
    assert read_state(home / job.id, job).state == "done"
    assert dense.stat().st_mtime_ns == stamp  # what was finished was not done again
    assert checkpoint.is_file()
    resumed = dsa.read_record(home / job.id / "record.json")
    executed = nbformat.read(home / job.id / NOTEBOOK.name, as_version=4)
    assert not any(o.output_type == "error" for c in executed.cells for o in c.get("outputs", []))

    config = dsa.configure("tiny")
    undisturbed = dsa.run(config, tmp_path / "whole", progress=False)
    assert facts(resumed) == facts(undisturbed)
    assert [p.name for p in home.rglob("record.json")] == ["record.json"]
