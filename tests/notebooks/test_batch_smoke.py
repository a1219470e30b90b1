"""Notebook 13 as a batch, killed in the middle of its search, then started again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from dsa_core.lab.batch.spec import jobs_of, read_spec
from dsa_core.lab.batch.state import read_state

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "13_full_run.ipynb"
LIMIT = 900  # seconds


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dsa_core", "batch", "grid.yaml"]
    return subprocess.Popen(command, cwd=folder, start_new_session=True)


@pytest.mark.slow
def test_a_killed_batch_goes_on(tmp_path):
    grid = tmp_path / "grid.yaml"
    grid.write_text(f"notebook: {NOTEBOOK}\nparameters: {{preset: tiny}}\n")
    (job,) = jobs_of(read_spec(grid))
    home = tmp_path / "runs" / "grid" / job.id
    batch, end = start(tmp_path), time.monotonic() + LIMIT
    while read_state(home, job).epochs_done < 2:
        assert batch.poll() is None, "the batch ended before its search"
        assert time.monotonic() < end, "no two epochs were saved"
        time.sleep(0.02)
    family = psutil.Process(batch.pid).children(recursive=True)
    assert any("ipykernel" in " ".join(process.cmdline()) for process in family)
    os.kill(batch.pid, signal.SIGKILL)  # of the batch alone: its worker and kernel go with it
    batch.wait()
    assert psutil.wait_procs(family, 20)[1] == []
    assert read_state(home, job).state == "running"  # of a batch that is no more
    assert not (home / "record.json").exists()
    dense = next(home.parent.rglob("dense.json"))
    stamp = dense.stat().st_mtime_ns

    assert start(tmp_path).wait(LIMIT) == 0
    assert read_state(home, job).state == "done"
    assert dense.stat().st_mtime_ns == stamp  # what was finished was not done again
    executed = nbformat.read(home / NOTEBOOK.name, as_version=4)
    assert not any(o.output_type == "error" for c in executed.cells for o in c.get("outputs", []))
    assert [p.name for p in home.parent.rglob("record.json")] == ["record.json"]
