"""A notebook over a grid: parameters are refused early, runs are processes, state is files."""

import json
import os
import signal
import sys
from collections import Counter
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import MagicMock

import nbformat
import psutil
import pytest
from problems_runs import some_record, write_folder
from rich.console import Console
from typer.testing import CliRunner

from dsa_core.errors import ConfigError
from dsa_core.lab.batch import pools, run, view
from dsa_core.lab.batch import worker as worker_module
from dsa_core.lab.batch.cli import whole_paths
from dsa_core.lab.batch.parameters import parameters_in, parameters_of
from dsa_core.lab.batch.run import run_batch, run_job
from dsa_core.lab.batch.spec import BatchSpec, Job, config_hash, jobs_of, read_spec
from dsa_core.lab.batch.state import RunState, read_state, write_state
from dsa_core.lab.batch.worker import PARAMETERS, work
from dsa_core.lab.cli import app
from dsa_core.lab.record_files import write_record
from dsa_core.lab.runs import configure
from dsa_core.lab.runs import run as run_one
from dsa_core.lab.runs.folder import alone_in
from dsa_core.training.checkpoint import save_progress

PARAMETERS_CELL = """\
fast: bool = True  # seconds
seed: int = 0  # of everything
method: str = "dsa"  # an allocator
preset: str = ""  # "" is tiny
model: str = ""  # "" is the preset's
ratio: float = 0.5  # of the dense cost
widths: list[int] = [8, 16]  # of layers
out: str = ""  # folder of this run"""


def notebook(folder: Path, *cells: str, parameters: str = PARAMETERS_CELL) -> Path:
    book = nbformat.v4.new_notebook()  # names neither kernel nor language, as it may
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    book.cells = [first, *(nbformat.v4.new_code_cell(cell) for cell in cells)]
    path = folder / "some.ipynb"
    nbformat.write(book, path)
    return path


def batch(folder: Path, text: str = "", *cells: str) -> list[Job]:
    notebook(folder, *cells)
    file = folder / "grid.yaml"
    file.write_text(f"notebook: some.ipynb\n{text}")
    return jobs_of(read_spec(file))


GRID = "parameters: {method: [dsa, uniform], ratio: [0.5, 1], fast: false}\nseeds: [0, 1]\n"


def test_every_parameter_is_seen_with_type_default_and_help(tmp_path):
    found = parameters_of(notebook(tmp_path))
    assert [(p.name, p.type, p.default) for p in found.values()] == [
        ("fast", "bool", True),
        ("seed", "int", 0),
        ("method", "str", "dsa"),
        ("preset", "str", ""),
        ("model", "str", ""),
        ("ratio", "float", 0.5),
        ("widths", "list[int]", [8, 16]),
        ("out", "str", ""),
    ]
    assert found["ratio"].help == "of the dense cost"
    assert parameters_in('a: str = "é#"  # b # c', "cell")["a"].help == "b # c"


def test_the_grid_is_the_product_of_its_lists_and_seeds(tmp_path):
    jobs = batch(tmp_path, GRID)
    points = [(j.parameters["method"], j.parameters["ratio"], j.parameters["seed"]) for j in jobs]
    assert points == [(m, r, s) for m in ("dsa", "uniform") for r in (0.5, 1.0) for s in (0, 1)]
    assert all(j.parameters["fast"] is False for j in jobs)
    assert all(j.parameters["widths"] == [8, 16] for j in jobs)  # the notebook's default
    assert all("out" not in j.parameters and j.takes_out for j in jobs)
    assert jobs[0].id.startswith("dsa-ratio0.5-seed0-")
    assert len({j.id for j in jobs}) == len(jobs) == 8
    jobs = batch(tmp_path, "parameters: {widths: [[8], [8, 16]]}\n")  # a parameter that is a list
    assert [j.parameters["widths"] for j in jobs] == [[8], [8, 16]]


def test_the_hash_names_the_values_and_nothing_else(tmp_path):
    (one,) = batch(tmp_path, "parameters: {method: dsa, ratio: 1}\ntimeout_minutes: 1\n")
    (same,) = batch(tmp_path, "parameters: {ratio: 1.0, fast: true, method: dsa}\n")
    (other,) = batch(tmp_path, "parameters: {method: dsa, ratio: 0.25}\n")
    assert one.config_hash == same.config_hash != other.config_hash
    turned = dict(reversed(one.parameters.items()))  # the notebook's lines in another order
    assert config_hash(one.notebook, turned) == one.config_hash


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("parameters: {ratoi: 0.5}", "no parameter 'ratoi': did you mean 'ratio'"),
        ("parameters: {ratio: half}", "'ratio'.*must be float, got 'half'"),
        ("parameters: {ratio: [0.5, true]}", "'ratio'.*must be float, got True"),
        ("parameters: {widths: [8, 16]}", r"'widths'.*must be list\[int\], got 8"),
        ("parameters: {ratio: []}", "'ratio' has an empty list"),
        ("parameters: {ratio: [0.5, 0.5]}", "appears twice"),
        ("parameters: {seed: 3}", "give seeds as"),
        ("parameters: {out: here}", "no parameter 'out'"),
        ("seeds: []", "seeds: "),
        ("seed: [1]", "no entry 'seed': did you mean 'seeds'"),
        ("timeout_minutes: 0", "timeout_minutes: "),
        ("timeout_minutes: .inf", "timeout_minutes: "),
        ("parameters: {method: [dsa, unifrom]}", "did you mean 'uniform'"),  # as a run would
        ("parameters: {ratio: [0.5, 1.5]}", "ratio: Input should be less"),
        ("parameters: {model: resnet21}", "did you mean 'resnet20'"),
        ("parameters: {preset: quik}", "did you mean 'quick'"),
    ],
)
def test_what_is_wrong_is_refused_and_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        batch(tmp_path, text + "\n")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("seed: int = 0\nratio: float | None = 0.5", "parameter 'ratio' has the type"),
        ("ratio = 0.5", "`ratio = 0.5` cannot be read; write each as one line"),
        ("ratio: float = 1 / 2", "must be a plain value"),
        ("ratio: float = 'x'", "'ratio'.*must be float, got 'x'"),
        ("", "takes no parameters"),
        ("ratio: float =", "are not Python: invalid syntax"),
    ],
)
def test_a_notebook_with_parameters_that_cannot_be_read(tmp_path, cell, message):
    with pytest.raises(ConfigError, match=message):
        parameters_of(notebook(tmp_path, parameters=cell))


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "{}", '{"nbformat": 4, "cells": []}'])
def test_what_is_no_notebook(tmp_path, text):
    (tmp_path / "a.ipynb").write_text(text)
    with pytest.raises(ConfigError, match=r"a\.ipynb cannot be read as a notebook"):
        parameters_of(tmp_path / "a.ipynb")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("- a\n", "must hold `notebook:`"),
        ("notebook: none.ipynb\n", r"cannot be read as a notebook: .*No such file"),
    ],
)
def test_what_is_no_batch(tmp_path, text, message):
    (tmp_path / "b.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        jobs_of(read_spec(tmp_path / "b.yaml"))


BATCHES = Path(__file__).parents[1] / "notebooks" / "batches"
FULL_RUN = BATCHES.parent / "13_full_run.ipynb"
RUNS = {
    "quick": 12,
    "cifar10_resnet20": 24,
    "paper_table2": 36,
    "paper_imagenet": 8,
    "methods_digits": 63,
    "methods_cifar10": 63,
}


def test_the_batches_of_the_course_can_be_planned():
    jobs = {path.stem: jobs_of(read_spec(path)) for path in BATCHES.glob("*.yaml")}
    assert {name: len(found) for name, found in jobs.items()} == RUNS
    assert all(job.takes_out for found in jobs.values() for job in found)


@pytest.mark.slow
def test_the_imagenet_batch_takes_its_first_steps(tmp_path):
    """Its settings on 16 images: plain epochs, masked epochs, the cut; batches of 4, no more."""
    jobs = [job.parameters for job in jobs_of(read_spec(BATCHES / "paper_imagenet.yaml"))]
    p = next(p for p in jobs if (p["model"], p["method"]) == ("resnet18", "dsa"))
    few = {"batch_size": "4", "precision": "fp32", "channels_last": "false"}
    changes = {f"{phase}.{k}": v for phase in ("search.train", "fine_tune") for k, v in few.items()}
    changes |= {"search.train.epochs": "3", "search.warmup_epochs": "1", "search.ratio_every": "1"}
    changes |= {"fine_tune.epochs": "1", "weights_fraction": "0.7", "norm_batches": "2"}
    folder = f"folder:{write_folder(tmp_path / 'images', train=8)}"
    given = {name: p[name] for name in ("method", "model", "ratio")}
    config = configure(p["preset"], dataset=folder, changes=changes, **given)
    record = run_one(config, tmp_path / "runs", progress=False)
    assert record.epochs["search"] == 3
    assert record.dataset == folder
    assert record.costs["macs"].whole == record.costs["macs"].counted
    assert record.budget_met == (record.costs["macs"].ratio <= p["ratio"])


def test_a_run_counts_as_done_only_with_its_hash_and_its_record(tmp_path):
    job = batch(tmp_path)[0]
    assert read_state(tmp_path, job).state == "planned"
    done = RunState(id=job.id, config_hash=job.config_hash, state="done", record=True)
    write_state(tmp_path, done)
    assert read_state(tmp_path, job).state == "planned"  # the record is not there
    (tmp_path / "record.json").write_text("{}")
    assert read_state(tmp_path, job) == done
    changed = job.model_copy(update={"config_hash": "other"})
    assert read_state(tmp_path, changed).state == "planned"
    (tmp_path / "run.json").write_bytes(b"\xff\xfe")
    assert read_state(tmp_path, job).state == "planned"
    (tmp_path / "run.json").write_text('{"id": ')
    assert read_state(tmp_path, job).state == "planned"


def states(*names: str) -> list[RunState]:
    return [
        RunState(id=f"run{i}", config_hash="x", state=name, seconds=60.0 * (i + 1))
        for i, name in enumerate(names)
    ]


def test_the_estimate_is_the_rounds_left_times_the_median():
    spec = BatchSpec(notebook=FULL_RUN, minutes_each=7)
    # 5 left by 2 at a time = 3 rounds
    assert "about 21 min" in view.estimate(spec, states(*["planned"] * 5), 2)
    found = view.estimate(spec, states("done", "done", "done", *["planned"] * 4, "failed"), 2)
    assert "5 of 8 runs" in found
    assert "2 min each" in found  # the median of 1, 2, 3 minutes, not what the file says
    assert "about 6 min" in found
    assert "not known yet" in view.estimate(BatchSpec(notebook=FULL_RUN), states("planned"), 1)


def rendered(what: object) -> str:
    screen = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    screen.print(what)
    return screen.export_text()


def test_the_table_shows_what_runs_and_failed_before_what_is_planned():
    many = states(*["planned"] * 50, "failed", "running")
    text = rendered(view.live_table(many))
    assert text.index("run51") < text.index("run50") < text.index("run0 ")
    assert "50 planned" in text
    assert "1 running" in text
    assert text.count("planned") < 50  # not every row fits


def test_an_unknown_dataset_is_refused_before_any_run_starts(tmp_path):
    (tmp_path / "grid.yaml").write_text(f"notebook: {FULL_RUN}\nparameters: {{dataset: cifar}}\n")
    with pytest.raises(ConfigError, match="unknown dataset 'cifar': did you mean 'cifar10"):
        jobs_of(read_spec(tmp_path / "grid.yaml"))


def test_the_table_shows_epochs_done_and_the_time_left(tmp_path):
    job = batch(tmp_path)[0]
    running = RunState(id=job.id, config_hash=job.config_hash, state="running")
    write_state(tmp_path, running)
    assert read_state(tmp_path, job) == running  # a notebook that says nothing of epochs
    preset = {"search": {"train": {"epochs": 4}}, "fine_tune": {"epochs": 6}}
    (tmp_path / "config.json").write_text(json.dumps({"preset": preset}))
    for phase, done in (("search", 4), ("fine_tune", 1)):
        path = tmp_path / "checkpoints" / f"{phase}.pt"
        save_progress(path, done=done, epochs=6, seconds=60.0 * done)
    state = read_state(tmp_path, job)
    assert (state.epochs_done, state.epochs, state.epoch_seconds) == (5, 10, 60.0)
    text = rendered(view.live_table([state]))
    assert "5 of 10" in text
    assert "about 5 min" in text
    (tmp_path / "checkpoints" / "search.epochs.json").write_text("{")
    assert read_state(tmp_path, job) == running


def test_of_a_search_in_trials_the_epochs_ahead_are_told_once_it_is_fine_tuned(tmp_path):
    job = batch(tmp_path)[0]
    running = RunState(id=job.id, config_hash=job.config_hash, state="running")
    write_state(tmp_path, running)
    preset = {"search": {"train": {"epochs": 4}}, "fine_tune": {"epochs": 6}}
    (tmp_path / "config.json").write_text(json.dumps({"preset": preset}))
    for trial in range(3):
        path = tmp_path / "checkpoints" / f"search-trial{trial}.pt"
        save_progress(path, done=4, epochs=4, seconds=240.0)
    state = read_state(tmp_path, job)
    assert (state.epochs_done, state.epochs) == (12, 0)  # how many trials follow is not known
    assert view.epochs(state, "1 s") == ("12", "1 s", "")
    path = tmp_path / "checkpoints" / "fine_tune.pt"
    save_progress(path, done=1, epochs=6, seconds=60.0)
    assert view.epochs(read_state(tmp_path, job), "1 s") == ("13 of 18", "1 s", "about 5 min")


def test_a_done_run_is_not_run_again_and_a_dead_kernel_gets_a_second_try(tmp_path, monkeypatch):
    (tmp_path / PARAMETERS).write_text(batch(tmp_path)[0].model_dump_json())
    calls, errors = [], ["Kernel died before replying to kernel_info"]

    def execute(*_: object) -> None:
        calls.append(1)
        if errors:
            raise RuntimeError(errors.pop())

    monkeypatch.setattr(worker_module, "execute", execute)
    assert [work(tmp_path).state, work(tmp_path).state] == ["done", "done"]
    assert len(calls) == 2
    (tmp_path / "run.json").unlink()
    errors += ["Kernel died before replying to kernel_info"] * 2
    assert work(tmp_path).state == "failed"
    errors += ["something else"] * 2
    state = work(tmp_path)
    assert (state.state, state.error, len(errors)) == ("failed", "RuntimeError: something else", 1)


class Later(Executor):
    """A pool that does nothing by itself."""

    def submit(self, _function, *arguments):
        future: Future[RunState] = Future()
        future.set_exception(OSError(f"no room for {arguments[0].parameters['method']}"))
        return future


def test_a_run_that_cannot_be_started_has_failed_and_the_others_go_on(tmp_path):
    jobs = batch(tmp_path, GRID)
    found = run_batch(jobs, tmp_path / "b", Later())
    assert {s.state for s in found} == {"failed"}
    assert found[0].error == "OSError: no room for dsa"
    assert len((tmp_path / "b" / "batch.log").read_text().splitlines()) == 8


def test_two_processes_do_not_work_on_one_batch(tmp_path):
    with alone_in(tmp_path), pytest.raises(ConfigError, match="another process is working in"):
        run_batch([], tmp_path, Later())


STAMP = (
    "from pathlib import Path\n"
    "with open(Path(out) / 'calls', 'a') as f: f.write('x')\n"
    "print(method, ratio, seed)"
)


@pytest.mark.slow
def test_a_failing_run_names_its_cell_and_leaves_the_others_alone(tmp_path):
    bad = "if method == 'uniform':\n    raise ValueError('no such thing\\nas this')"
    jobs = batch(tmp_path, "parameters: {method: [dsa, uniform]}\n", STAMP, bad, "1 + 1")
    home = tmp_path / "with {braces}"
    with ThreadPoolExecutor(2) as pool:
        good, failed = run_batch(jobs, home, pool)
    assert (good.state, failed.state) == ("done", "failed")
    assert "ValueError: no such thing" in failed.error
    assert "as this" in failed.traceback
    assert "\x1b" not in failed.traceback
    saved = nbformat.read(home / failed.id / "some.ipynb", as_version=4)
    assert saved.cells[failed.cell].source == bad  # the number is that of the saved notebook
    executed = nbformat.read(home / good.id / "some.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].data["text/plain"] == "2"
    assert json.loads((home / good.id / PARAMETERS).read_text())["parameters"]["method"] == "dsa"
    with ThreadPoolExecutor(1) as pool:
        run_batch(jobs, home, pool)
    calls = {s.id: len((home / s.id / "calls").read_text()) for s in (good, failed)}
    assert calls == {good.id: 1, failed.id: 2}  # done is skipped, failed runs again
    lines = (home / "batch.log").read_text().splitlines()
    assert Counter(line.split()[1] for line in lines) == {"done": 1, "failed": 2}


@pytest.mark.slow
def test_a_cell_and_a_run_that_take_too_long_are_stopped(tmp_path):
    sleep = f"import os\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
    sleep += "import time; time.sleep(600)"
    job = batch(tmp_path, "", sleep)[0].model_copy(update={"cell_timeout_s": 1.0})
    state = run_job(job, tmp_path / "cell", {})
    assert state.state == "timeout"
    assert "a cell took longer" in state.error
    (tmp_path / "pid").unlink()
    job = job.model_copy(update={"cell_timeout_s": 600.0, "timeout_s": 12.0})
    state = run_job(job, tmp_path / "run", {})
    assert state.state == "timeout"
    assert "the run took longer" in state.error
    assert state.seconds >= 12
    if (tmp_path / "pid").exists():  # on a busy machine the time is over before the cell begins
        gone((tmp_path / "pid").read_text())


def gone(pid: str) -> None:
    """The process ends within 20 s."""
    try:
        psutil.Process(int(pid)).wait(20)
    except psutil.NoSuchProcess:
        return


@pytest.mark.slow
def test_runs_on_a_cluster_of_two(tmp_path):
    distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    jobs = batch(tmp_path, "seeds: [0, 1]\n", STAMP)
    local = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": None}
    with (
        distributed.LocalCluster(**local) as cluster,
        pools.scheduler_pool(cluster.scheduler_address) as pool,
    ):
        found = run_batch(jobs, tmp_path / "b", pool)
    assert [s.state for s in found] == ["done", "done"]
    assert all((tmp_path / "b" / s.id / "calls").read_text() == "x" for s in found)


def test_a_cluster_without_its_packages_or_its_scheduler(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(ConfigError, match=r"pip install 'dsa_core\[cluster\]'"),
        pools.scheduler_pool("tcp://localhost:1"),
    ):
        pass


def test_slurm_submits_one_job_for_each_worker(monkeypatch):
    modules = {"dask_jobqueue": MagicMock(), "distributed": MagicMock()}
    monkeypatch.setattr(pools, "needed", modules.get)
    with pools.slurm_pool(3):
        pass
    cluster = modules["dask_jobqueue"].SLURMCluster()
    cluster.scale.assert_called_once_with(jobs=3)
    (address,) = modules["distributed"].Client.call_args.args
    assert address is cluster.scheduler_address
    cluster.__exit__.assert_called_once()


def test_slurm_without_settings_says_where_they_go():
    if find_spec("dask_jobqueue") is None:
        pytest.skip("the extra `cluster` is not installed")
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(ConfigError, match=r"jobqueue\.yaml"), pools.slurm_pool(1):
        pass
    assert signal.getsignal(signal.SIGINT) == handler  # which dask_jobqueue takes when imported


def test_threads_are_shared_among_workers(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert pools.threads_of(1) == {}
    assert pools.threads_of(3) == {"OMP_NUM_THREADS": "2"}
    assert pools.threads_of(16) == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert pools.threads_of(3) == {}


def test_dry_run_prints_the_plan_and_starts_nothing(tmp_path):
    jobs = batch(tmp_path, GRID + "minutes_each: 2\n")
    out = tmp_path / "runs"
    for job, state in zip(jobs, ("done", "failed", "interrupted"), strict=False):
        found = RunState(id=job.id, config_hash=job.config_hash, state=state, seconds=60.0)
        write_state(out / "grid" / job.id, found)
    before = sorted(out.rglob("*"))
    words = ["batch", str(tmp_path / "grid.yaml"), "--dry-run", "--out", str(out), "--workers", "2"]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0
    for told in ("skip, done", "run again", "resume", "7 of 8 runs to do, 2 at a time"):
        assert told in found.output
    assert "about 4 min" in found.output  # 4 rounds of the one minute that a finished run took
    assert sorted(out.rglob("*")) == before


@pytest.mark.parametrize("state", ["done", "failed"])
def test_the_command_tells_of_each_run_and_its_exit_code_of_all(state, tmp_path, monkeypatch):
    job = batch(tmp_path)[0]

    def act(job, folder, environment):
        ends = {"state": state, "error": "cell 3: ValueError: x", "traceback": "at line 7"}
        found = RunState(id=job.id, config_hash=job.config_hash, **ends)
        write_state(folder, found)
        return found

    monkeypatch.setattr(run, "run_job", act)
    words = ["batch", str(tmp_path / "grid.yaml"), "--out", str(tmp_path / "runs")]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == (0 if state == "done" else 1)
    assert f"1 {state}; dsa report" in found.output
    assert f"{job.id} cell 3: ValueError: x" in found.output
    assert ("at line 7" in found.output) == (state == "failed")
    log = (tmp_path / "runs" / "grid" / "batch.log").read_text()
    assert log.split()[1] == state


def test_a_relative_data_folder_stays_the_same_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSA_DATA", "here")
    assert whole_paths() == {"DSA_DATA": str(tmp_path / "here")}
    monkeypatch.delenv("DSA_DATA")
    assert whole_paths() == {}


def test_a_folder_with_a_run_of_another_configuration_is_refused(tmp_path):
    write_record(tmp_path, some_record(config_hash="another"))
    with pytest.raises(ConfigError, match="a run of another configuration"):
        run_one(configure("tiny"), tmp_path, folder=tmp_path, progress=False)
    config = configure("tiny")
    write_record(tmp_path, some_record(config_hash=config.hash))
    assert run_one(config, tmp_path, folder=tmp_path, progress=False).config_hash == config.hash


def test_a_notebook_of_no_preset_has_its_settings_unchecked(tmp_path):
    notebook(tmp_path, parameters='method: str = "none of ours"  # its own')
    (tmp_path / "grid.yaml").write_text("notebook: some.ipynb\n")
    (job,) = jobs_of(read_spec(tmp_path / "grid.yaml"))
    assert job.parameters == {"method": "none of ours"}
