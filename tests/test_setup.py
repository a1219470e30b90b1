"""The set-up files agree with one another, and the README tells the truth about them."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from dsa_core.lab.record import find_records
from dsa_core.lab.report import as_markdown, put_into

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()


def environment() -> tuple[list[str], list[str]]:
    """The conda and the pip requirements of environment.yml."""
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(e["pip"] for e in entries if isinstance(e, dict))
    return [e for e in entries if isinstance(e, str)], pip


def test_environment_asks_for_the_python_of_pyproject():
    conda, _ = environment()
    python = next(Requirement(e) for e in conda if Requirement(e).name == "python")
    assert python.specifier == SpecifierSet(PROJECT["requires-python"])


def test_environment_installs_this_project_with_its_dev_extra():
    _, pip = environment()
    assert pip == ["--editable .[dev]"]
    assert "dev" in PROJECT["optional-dependencies"]


def test_environment_repeats_no_requirement_of_pyproject():
    conda, _ = environment()
    ours = {Requirement(d).name.lower() for d in PROJECT["dependencies"]}
    assert not ours & {Requirement(e).name.lower() for e in conda}


@pytest.mark.parametrize(
    "package",
    [
        "torch",
        "torchvision",
        "jupyterlab",
        "matplotlib",
        "seaborn",
        "ipywidgets",
        "papermill",
        "nbval",
    ],
)
def test_the_packages_of_the_project_are_declared(package):
    declared = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
    assert package in {Requirement(d).name.lower() for d in declared}


@pytest.mark.parametrize("extra", ["dev", "onnx", "cluster"])
def test_extras_exist_and_parse(extra):
    for text in PROJECT["optional-dependencies"][extra]:
        Requirement(text)


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


def test_readme_names_only_things_that_dsa_core_has():
    import dsa_core

    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")
        for name in re.findall(r"\bdsa\.(\w+)", block):
            assert hasattr(dsa_core, name), name


def test_readme_program_runs_on_a_small_network(tmp_path, monkeypatch):
    program = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    small = {
        '"resnet20"': '"resnet8"',
        '"cifar10"': '"digits"',
        "1, 3, 32, 32": "1, 1, 8, 8",
        "epochs=15": "epochs=1",
        "epochs=4": "epochs=2",
    }
    for old, new in small.items():
        assert old in program
        program = program.replace(old, new)
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    exec(program, space)
    assert space["found"].whole_ratio("macs") <= 0.5
    assert space["same_budget_on_the_way"].whole_ratio("macs") <= 0.7
    assert (tmp_path / "pruned" / "architecture.json").exists()


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
