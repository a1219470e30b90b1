"""The command line: help that suffices, errors in one line, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from problems_runs import some_record, tiny_preset, tiny_run
from typer.testing import CliRunner

from dsa_core.errors import BudgetError
from dsa_core.lab.cli import app, main, plot_name
from dsa_core.lab.options import parse_floors
from dsa_core.lab.record_files import write_record
from dsa_core.lab.runs import presets


def dsa(monkeypatch, capsys, *words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    monkeypatch.setattr(sys, "argv", ["dsa", *map(str, words)])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    found = capsys.readouterr()
    return code, found.out, found.err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", "run report records groups check data batch bench calibrate"),
        ("run", "cpu-short macs=RATIO latency=RATIO DSA_DATA GROUP=RATIO resumes"),
        ("report", "markdown csv overview"),
        ("records", "pack"),
        ("groups", "--json package.module:factory resnet20"),
        ("check", "--zoo --keep masking"),
        ("data", "--download DSA_DATA"),
    ],
)
def test_help(command, words):
    terminal = {"COLUMNS": "100", "TERM": "dumb"}
    found = CliRunner().invoke(app, [*command.split(), "--help"], env=terminal)
    assert found.exit_code == 0
    assert [w for w in words.split() if w not in found.output] == []


def test_run_then_again_then_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(presets.PRESETS, "quick", tiny_preset)
    command = ["run", "--method", "dsa", "--method", "uniform", "--out", tmp_path, "--quiet"]
    command += ["--budget", "macs=0.5", "--divisor", "2", "--floor", "*=0.25"]
    code, out, _ = dsa(monkeypatch, capsys, *command)
    assert code == 0
    assert "50 macs, in 2s, floors" in out
    (plot,) = tmp_path.glob("*.png")
    assert f"plot: {plot}" in out
    assert "dsa-uniform" in plot.name
    records = sorted(tmp_path.rglob("record.json"))
    assert len(records) == 2
    assert all(f"record:  {path}" in out for path in records)
    stamps = [path.stat().st_mtime_ns for path in records]
    assert dsa(monkeypatch, capsys, *command)[0] == 0
    assert [path.stat().st_mtime_ns for path in records] == stamps
    code, out, _ = dsa(monkeypatch, capsys, "report", tmp_path, "--format", "csv")
    assert code == 0
    assert len(out.splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "--preset", "quik"], "did you mean 'quick'"),
        (["run", "--method", "unifrom"], "did you mean 'uniform'"),
        (["run", "--dataset", "CIFAR10"], "unknown dataset 'CIFAR10': did you mean 'cifar10'?"),
        (["run", "--set", "epochs=3"], "'search.train.epochs'"),
        (["run", "--seed", "-1"], "seed: Input should be greater than or equal to 0, got -1"),
        (["run", "--seed", str(1 << 64)], "seed: Input should be less than"),
        (["run", "--divisor", "3", "--budget", "macs=0.5", "--budget", "x=1"], "got 'x=1'"),
        (["run", "--model", "problems_runs:TASK"], "is a Task, not a function that makes"),
        (["run", "--model", "no.such:net"], "cannot be imported (ModuleNotFoundError"),
        (["run", "--budget", "half"], "macs=RATIO, params=RATIO or latency=RATIO"),
        (["run", "--budget", "macs=1.5"], "RATIO in (0, 1]"),
        (["run", "--budget", "flops=0.5"], "got 'flops=0.5'"),
        (["run", "--budget", "macs=0.0001"], "cannot be reached"),
        (["run", "--budget", "macs="], "got 'macs='"),
        (["run", "--budget", "macs=0.5", "--budget", "macs=0.001"], "cannot be reached"),
        (["run", "--set", "fine_tune.batch_size=2000"], "the setting fine_tune.batch_size"),
        (["run", "--set", "search.train.batch_size=1000"], "the setting search.ratio_batch_size"),
        (["calibrate", "resnet8", "--out", "."], "--out: . is a folder: name a file"),
        (["run", "--budget", "macs=0"], "RATIO in (0, 1]"),
        (["run", "--budget", "macs=nan"], "RATIO in (0, 1]"),
        (["run", "--floor", "conv1"], "GROUP=RATIO"),
        (["run", "--set", "search.ratio_every"], "SETTING=VALUE"),
        (["run", "--floor", "conv1=5"], "must be in [0, 1]"),
        (["run", "--floor", "conv9=0.5"], "no prunable group is named"),
        (["run", "--model", "resnet20"], "images of digits, 1x8x8 (it is made for 3x32x32)"),
        (["run", "--model", "resnet20", "--dataset", "cifar10"], "DSA_DATA"),
        (["groups", "resnet21"], "did you mean 'resnet20'"),
        (["groups", "no.such:net"], "cannot be imported"),
        (["check"], "name a network"),
        (["report", "nowhere"], "does not exist: give the folder"),
        (["report", "."], "no record that can be read"),
        (["data", "digit"], "did you mean 'digits'"),
        (["data", "cifar10"], "DSA_DATA"),
        (["run", "--out", "file/deep/runs"], "file is not a folder: give --out a folder"),
        (["batch", "none.yaml"], "there is no batch none.yaml"),
        (["batch", "none.yaml", "--slurm", "--scheduler", "tcp://x:1"], "not both"),
    ],
)
def test_errors_are_one_line_and_exit_code_two(words, told, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DSA_DATA", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    code, _, error = dsa(monkeypatch, capsys, *words)
    assert code == 2
    assert error.startswith("error: ")
    assert told in error
    assert len(error.splitlines()) == 1  # and no traceback
    assert not list(tmp_path.rglob("*.safetensors")) + list(tmp_path.rglob("*.pt"))


@pytest.mark.parametrize("words", [["runn"], ["run", "--divisor", "0"], ["run", "--buget", "1"]])
def test_wrong_usage(words, monkeypatch, capsys):
    assert dsa(monkeypatch, capsys, *words)[0] == 2


def test_a_traceback_on_request(monkeypatch, capsys):
    monkeypatch.setenv("DSA_TRACEBACK", "1")
    with pytest.raises(BudgetError):
        dsa(monkeypatch, capsys, "run", "--budget", "half")


def test_groups_as_json(monkeypatch, capsys):
    code, out, _ = dsa(monkeypatch, capsys, "groups", "resnet20", "--json")
    found = json.loads(out)
    assert code == 0
    keys = ["model", "groups", "prunable_groups", "macs", "params", "frozen", "unknown_ops"]
    assert list(found) == keys
    assert (found["model"], found["prunable_groups"]) == ("resnet20", 12)
    assert found["macs"] == pytest.approx(40.81e6, rel=1e-3)
    assert sum(g["prunable"] for g in found["groups"]) == 12
    assert all(set(entry) == {"reason", "channels"} for entry in found["frozen"])
    assert sum(entry["channels"] for entry in found["frozen"]) == 10  # the classes


def test_groups_as_text(monkeypatch, capsys):
    _, out, _ = dsa(monkeypatch, capsys, "groups", "resnet8")
    assert "6 prunable groups" in out
    assert "layer2.0.conv1" in out


def test_check(monkeypatch, capsys):
    code, out, _ = dsa(monkeypatch, capsys, "check", "resnet8", "--json")
    (row,) = json.loads(out)
    assert code == 0
    assert {"model", "status", "reason", "groups", "max_abs_diff", "seconds"} <= set(row)
    assert (row["status"], row["groups"]) == ("ok", 6)
    assert row["macs_predicted"] == row["macs_counted"]
    code, out, _ = dsa(monkeypatch, capsys, "check", "resnet21")
    assert code == 1
    assert "did you mean 'resnet20'" in out


def test_report_forms(tmp_path, monkeypatch, capsys):
    write_record(tmp_path / "a", some_record(budget_met=False))
    for form, word in (("text", "MISSED"), ("markdown", "| MISSED |"), ("csv", ",MISSED,")):
        code, out, _ = dsa(monkeypatch, capsys, "report", tmp_path, "--format", form)
        assert code == 0
        assert word in out
    (tmp_path / "page.md").write_text("text")
    words = ["report", tmp_path, "--into", tmp_path / "page.md", "--format", "csv"]
    assert "a page takes a Markdown table" in dsa(monkeypatch, capsys, *words)[2]
    (tmp_path / "empty").mkdir()
    code, _, error = dsa(monkeypatch, capsys, "report", tmp_path / "empty")
    assert code == 2
    assert "is a run still going?" in error


def test_data_lists_what_is_there(tmp_path, monkeypatch, capsys):
    code, out, _ = dsa(monkeypatch, capsys, "data", "--root", tmp_path)
    assert code == 0
    assert "digits" in out
    assert "1437" in out
    assert "not there" in out


def test_the_name_of_a_floor_may_hold_an_equals_sign():
    assert parse_floors(["a=b=0.5", "*=0"]) == {"a=b": 0.5, "*": 0.0}


HEAVY = ("torch", "nbformat", "jsonschema", "pandas", "scipy", "numpy", "pydantic", "rich", "yaml")


def test_help_loads_next_to_nothing():
    code = (
        "import sys; from dsa_core.lab.cli import main; sys.argv = ['dsa', '--help']\n"
        "try: main()\n"
        "except SystemExit as stop: print(stop.code, *sys.modules, sep='\\n', file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "calibrate" in found.stdout
    status, *loaded = found.stderr.splitlines()
    assert status == "0"
    assert "dsa_core.lab.batch.cli" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_seeds_methods_and_budgets_are_several_runs(monkeypatch, capsys, tmp_path):
    asked = []

    def fake(config, out, **_):
        asked.append(config)
        return some_record(seed=config.seed, method=config.method, asked_ratio=config.ratio)

    monkeypatch.setattr("dsa_core.lab.runs.run", fake)
    words = ["run", "--preset", "tiny", "--out", tmp_path, "--seed", 0, "--seed", 3, "--seed", 0]
    words += ["--method", "dsa", "--method", "uniform", "--method", "dsa", "--budget", "params=0.3"]
    words += ["--budget", "macs=0.5", "--budget", "macs=0.25", "--budget", "macs=.50"]
    code, out, _ = dsa(monkeypatch, capsys, *words)
    assert code == 0
    found = [(c.asked, c.method, c.seed) for c in asked]
    budgets = [{"macs": macs, "params": 0.3} for macs in (0.5, 0.25)]
    assert found == [(b, m, s) for b in budgets for m in ("dsa", "uniform") for s in (0, 3)]
    plots = sorted(p.name for p in tmp_path.glob("*.png"))
    assert len(plots) == 2  # one for each budget
    assert all("-dsa-uniform-macs0." in name and "-seed0-3-" in name for name in plots)
    assert out.count("record: ") == 8
    name = plot_name([tiny_run(seed=seed) for seed in range(200)])
    assert "-seed0-1-2-" in name
    assert "-and-more-" in name
    assert len(name) < 200


WATCHED = """
import os, sys
names = {"open": 0, "os.mkdir": 0, "os.rename": 1, "os.symlink": 1, "os.truncate": 0}
log = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def watch(event, args):
    if event in names and isinstance(args[names[event]], (str, bytes)):
        if event != "open" or args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            os.write(log, os.fsencode(os.path.abspath(os.fsdecode(args[names[event]]))) + b"\\n")

sys.addaudithook(watch)
from dsa_core.lab import cli
from dsa_core.lab.runs import presets
from problems_runs import tiny_preset
presets.PRESETS["tiny"] = tiny_preset
cli.main()
"""


@pytest.mark.slow
def test_a_run_writes_to_its_folder_the_cache_and_nowhere_else(tmp_path):
    for name in ("home", "cwd", "tmp"):
        (tmp_path / name).mkdir()
    places = {"HOME": "home", "TMPDIR": "tmp", "DSA_DATA": "data"}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("XDG", "MPL", "TORCH"))}
    ours = {k: str(tmp_path / v) for k, v in places.items()}
    ours |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(Path(__file__).parent)}
    words = "run --preset tiny --onnx --out ../out --quiet"
    command = [sys.executable, "-c", WATCHED, str(tmp_path / "log"), *words.split()]
    subprocess.run(command, cwd=tmp_path / "cwd", env=inherited | ours, check=True)
    written = {Path(line) for line in (tmp_path / "log").read_text().splitlines()}
    allowed = [tmp_path / p for p in ("out", "data", "tmp", "home/.cache")] + [Path("/dev")]
    settings = tmp_path / "home" / ".config"  # matplotlib makes its folder there, an empty one
    outside = {p for p in written if not any(map(p.is_relative_to, allowed))}
    assert outside <= {settings, settings / "matplotlib"}
    assert any(p.is_relative_to(tmp_path / "out") for p in written)
    files = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "log"]
    kept = [tmp_path / p for p in ("out", "data", "home/.cache")]
    assert not [p for p in files if not any(map(p.is_relative_to, kept))]


def test_a_run_by_force_is_resumed_without(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("dsa_core.lab.runs.run", Mock(side_effect=KeyboardInterrupt))
    words = ["run", "--preset", "tiny", "--out", tmp_path]
    assert dsa(monkeypatch, capsys, *words)[2].endswith("again to resume\n")
    assert dsa(monkeypatch, capsys, *words, "--force")[2].endswith("to resume, without --force\n")


def test_every_method_is_tried_before_the_first_is_run(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("dsa_core.lab.runs.run", Mock(side_effect=AssertionError("it ran")))
    words = ["run", "--preset", "tiny", "--out", tmp_path, "--budget", "macs=0.05"]
    code, _, told = dsa(monkeypatch, capsys, *words, "--method", "uniform", "--method", "amc")
    assert code == 2
    assert "keep_least" in told
