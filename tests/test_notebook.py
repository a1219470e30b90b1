"""What notebooks share: folders, checks, plots, sliders that redraw, saved notebooks."""

import os
from pathlib import Path
from types import SimpleNamespace

import ipywidgets
import nbformat
import numpy as np
import pytest
import torch
from course import notebook
from matplotlib.figure import Figure

from dsa_core.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _same_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSA_DATA", "elsewhere")  # `start` may set it: put back what was
    monkeypatch.delenv("DSA_ROOT", raising=False)


def small_figure(width: float = 1.0) -> Figure:
    figure = Figure(figsize=(width, 1.0))
    figure.add_subplot().plot([0, width])
    return figure


def written(path: Path, *sources: str) -> Path:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata = nbformat.NotebookNode(tags=["parameters"], editor={"note": 1})
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_root_is_found_above_or_named(tmp_path: Path, monkeypatch) -> None:
    assert notebook.find_root(ROOT / "tests" / "notebooks") == ROOT
    with pytest.raises(ConfigError, match="set DSA_ROOT"):
        notebook.find_root(tmp_path)
    monkeypatch.setenv("DSA_ROOT", str(ROOT))
    assert notebook.find_root(tmp_path) == ROOT
    monkeypatch.setenv("DSA_ROOT", str(tmp_path))
    with pytest.raises(ConfigError, match="is not the repository"):
        notebook.find_root(ROOT)


def test_start_seeds_and_prints_two_lines(capsys, monkeypatch) -> None:
    monkeypatch.delenv("DSA_DATA")
    monkeypatch.chdir(ROOT / "tests")
    session = notebook.start(7)
    drawn = torch.rand(3), np.random.rand(3)
    notebook.start(7)
    assert torch.equal(torch.rand(3), drawn[0])
    np.testing.assert_array_equal(np.random.rand(3), drawn[1])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert "torch" in lines[0]
    assert lines[1].endswith("seed 7")
    assert (session.data, session.records) == (ROOT / "data", ROOT / "data" / "records")
    assert os.environ["DSA_DATA"] == str(ROOT / "data")


OURS = ["", "fast: bool = True  # quick\nratio: float = 0.5  # of the MACs\nn: int = 0  # images"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("rati = 0.25", "takes no parameter 'rati': did you mean 'ratio'"),
        ('ratio = "much"', "'ratio' .* must be float, got 'much'"),
        ("fast = 1", "'fast' .* must be bool"),
        ("ratio = -0.3", r"'ratio' is a share: wanted one in \(0, 1\], got -0.3"),
        ("ratio = 1.5", "'ratio' is a share"),
        ("n = -1", "'n' must be 0 or more, got -1"),
    ],
)
def test_what_papermill_was_given_is_checked_at_the_start(given: str, says: str, monkeypatch):
    monkeypatch.chdir(ROOT)
    shell = SimpleNamespace(user_ns={"In": [*OURS, f"# Parameters\n{given}\n", "start(0)"]})
    monkeypatch.setattr(notebook, "get_ipython", lambda: shell)
    with pytest.raises(ConfigError, match=says):
        notebook.start(0)


@pytest.mark.parametrize("third", ["# Parameters\nratio = 0.25\nfast = False\n", "rati = 0.25"])
def test_what_the_notebook_takes_and_what_a_learner_types_is_let_pass(third: str) -> None:
    notebook.check_injected([*OURS, third, "start(0)"])
    notebook.check_injected(OURS)


def test_check_prints_or_raises(capsys) -> None:
    notebook.check(torch.tensor(True), "water is wet")
    assert capsys.readouterr().out == "ok: water is wet\n"
    with pytest.raises(AssertionError, match="water is dry"):
        notebook.check(torch.tensor(False), "water is dry")


def test_show_displays_a_png_and_returns_nothing(monkeypatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(notebook, "display", seen.append)
    assert notebook.show(small_figure(), alt="a line") is None
    (image,) = seen
    assert image.data.startswith(b"\x89PNG")
    assert image.alt == "a line"


def test_panel_redraws_when_a_slider_moves_and_shows_what_went_wrong(monkeypatch) -> None:
    def broken_above_2(width: float) -> Figure:
        if width > 2:
            raise ValueError("too wide")
        return small_figure(width)

    slider = ipywidgets.FloatSlider(value=1.0, min=0.0, max=5.0)
    panel = notebook.Panel(broken_above_2, {"width": slider})
    first = bytes(panel.plot.value)
    slider.value = 2.0
    assert bytes(panel.plot.value).startswith(b"\x89PNG")
    assert panel.plot.value != first
    assert "width" in repr(panel)
    with pytest.raises(ValueError, match="too wide"):
        slider.value = 3.0
    assert "too wide" in panel.problem.value
    slider.value = 0.5
    assert panel.problem.value == ""
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    slider.value = 4.0  # in a notebook: shown, not raised
    assert "too wide" in panel.problem.value
    with pytest.raises(ValueError, match="too wide"):  # the first plot fails the cell
        notebook.Panel(broken_above_2, {"width": slider})


def test_execute_saves_outputs_and_no_machine_facts(tmp_path: Path) -> None:
    widget = "import ipywidgets\nipywidgets.IntSlider()"
    where = "import os; print(os.path.basename(os.getcwd()))"
    path = written(tmp_path / "a.ipynb", "x: int = 3  # help", "print(x + 1)", widget, where)
    assert notebook.main(["execute", str(path)]) == 0
    saved = nbformat.read(path, as_version=4)
    assert saved.cells[1].outputs[0].text == "4\n"
    assert saved.cells[2].execution_count == 3
    assert list(saved.cells[2].outputs[0].data) == ["text/plain"]
    assert saved.cells[3].outputs[0].text == f"{tmp_path.name}\n"  # it runs in its own folder
    assert saved.cells[0].metadata == {"tags": ["parameters"]}
    assert set(saved.metadata) == {"kernelspec", "language_info"}
    assert saved.metadata.kernelspec.name == "python3"


def test_checks_are_folded() -> None:
    cell = nbformat.v4.new_code_cell("check(True, '')", metadata={"tags": ["check"]})
    saved = nbformat.v4.new_notebook(cells=[cell])
    notebook.strip(saved)
    assert saved.cells[0].metadata == {"tags": ["check"], "jupyter": {"source_hidden": True}}


def test_a_notebook_that_fails_is_left_as_it_was(tmp_path: Path, capsys) -> None:
    path = written(tmp_path / "b.ipynb", "1 / 0")
    before = path.read_bytes()
    assert notebook.main(["execute", str(path)]) == 1
    assert path.read_bytes() == before
    assert "ZeroDivisionError" in capsys.readouterr().err
