"""Notebook 13 as a batch, killed in the middle of its search, then started again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import psutil
import pytest

import dsa_core as dsa
from dsa_core.lab.batch.spec import jobs_of, read_spec
from dsa_core.lab.batch.state import read_state

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "13_full_run.ipynb"
GRID = f"notebook: {NOTEBOOK}\nparameters: {{preset: tiny}}\n"
WHOLE = """
import dsa_core as dsa, pathlib
dsa.run(dsa.configure("tiny"), pathlib.Path("whole"), progress=False)
"""
# what differs from one run to the next
MEASURED = {
    **dict.fromkeys(("seconds", "processor_seconds", "latency", "git_commit"), True),
    "search": {"epoch_seconds"},
}


def start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """Python with one thread, for sums depend on their number."""
    one = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *words], cwd=folder, env=one, start_new_session=True)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 900
    while not condition():
        assert process.poll() is None, "the batch ended too early"
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.01)


@pytest.mark.slow
def test_a_killed_batch_goes_on_and_ends_with_the_record_of_an_undisturbed_run(tmp_path):
    (tmp_path / "grid.yaml").write_text(GRID)
    home = tmp_path / "runs" / "grid"
    words = ("-m", "dsa_core", "batch", "grid.yaml")
    batch = start(tmp_path, *words)
    wait_until(lambda: any(home.rglob("search.pt")), batch)
    checkpoint = next(home.rglob("search.pt"))
    for _ in range(2):  # written once before the search, then after each epoch
        before = checkpoint.stat().st_mtime_ns
        wait_until(lambda before=before: checkpoint.stat().st_mtime_ns != before, batch)
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

    assert start(tmp_path, *words).wait(900) == 0
    assert read_state(home / job.id, job).state == "done"
    assert dense.stat().st_mtime_ns == stamp  # what was finished was not done again
    assert checkpoint.is_file()
    executed = nbformat.read(home / job.id / NOTEBOOK.name, as_version=4)
    assert not any(o.output_type == "error" for c in executed.cells for o in c.get("outputs", []))

    assert start(tmp_path, "-c", WHOLE).wait(900) == 0
    records = [next((tmp_path / name).rglob("record.json")) for name in ("runs", "whole")]
    resumed, undisturbed = (dsa.read_record(p).model_dump(exclude=MEASURED) for p in records)
    assert resumed == undisturbed
    assert [p.name for p in home.rglob("record.json")] == ["record.json"]
