"""The set-up files agree with one another, and the README tells the truth about them."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from dsa_core.lab.record_files import find_records
from dsa_core.lab.report import as_markdown, put_into

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()


def environment() -> tuple[list[str], list[str]]:
    """The conda and the pip requirements of environment.yml."""
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(e["pip"] for e in entries if isinstance(e, dict))
    return [e for e in entries if isinstance(e, str)], pip


def test_environment_is_python_and_this_project_with_its_dev_extra():
    conda, pip = environment()
    assert pip == ["--editable .[dev]"]
    wanted = {Requirement(e).name: Requirement(e).specifier for e in conda}
    assert wanted.pop("python") == SpecifierSet(PROJECT["requires-python"])
    assert wanted.keys() <= {"pip"}


def test_the_core_needs_six_packages():
    names = {Requirement(d).name for d in PROJECT["dependencies"]}
    assert names == {"torch", "numpy", "scipy", "pydantic", "safetensors", "tqdm"}


def test_version_is_the_same_everywhere():
    import dsa_core

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert dsa_core.__version__ == PROJECT["version"] == citation["version"]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_readme_names_only_make_targets_that_exist():
    named = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert {"run", "test", "help"} <= named <= make_targets()


def test_make_help_lists_every_target_for_users():
    found = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = set(re.findall(r"^  make ([a-z-]+)", found.stdout, re.MULTILINE))
    assert listed == make_targets()


def test_readme_links_lead_somewhere():
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose)
    local = [link for link in links if "://" not in link]
    assert local
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_readme_commands_exist_on_the_command_line():
    from typer.testing import CliRunner

    from dsa_core.lab.cli import app

    named = set(re.findall(r"^ +dsa ([a-z]+)", README, re.MULTILINE))
    assert named
    for command in named:
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0


def programs() -> list[str]:
    """README's programs, on 8x8 images and with a shorter search."""
    found = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    for old, new in (("1, 3, 32, 32", "1, 1, 8, 8"), ("epochs, budget = 20", "epochs, budget = 1")):
        assert any(old in program for program in found)
        found = [program.replace(old, new) for program in found]
    return found


def test_readme_programs_run_on_the_digits(tmp_path, monkeypatch):
    import torch
    from torch.nn.functional import cross_entropy

    import dsa_core as dsa

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    digits = dsa.data.load("digits").batches("train", batch_size=64, indices=torch.arange(256))
    model = dsa.models.build("resnet8")
    space: dict = {
        "model": model,
        "loader": list(digits.epoch(0)) * 5,
        "loss_of": lambda model, batch: cross_entropy(model(batch[0]), batch[1]),
        "optimizer": torch.optim.AdamW(model.parameters(), 1e-3),
    }
    one_call, own_loop = programs()
    exec(one_call, space)
    assert space["result"].allocation.met
    assert (tmp_path / "smaller.onnx").stat().st_size > 10_000
    exec(own_loop, space)
    assert space["pruner"].allocation.met
    assert space["smaller"](space["example"]).shape == (1, 10)


def test_gate_calls_the_test_command_of_the_readme():
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert "make test" in README


@pytest.mark.parametrize(
    ("file", "columns"), [("README.md", "overview"), ("data/records/README.md", "status")]
)
def test_the_tables_are_those_of_the_shipped_records(file: str, columns):
    page = (ROOT / file).read_text()
    named = re.search(rf"`dsa report (data/records/.*?) --columns {columns} --into {file}`", page)
    folders = [f for pattern in named[1].split() for f in sorted(ROOT.glob(pattern))]
    table = as_markdown(find_records(*folders), columns)
    assert put_into(page, table) == page, f"run: {named[0]}"
