"""Every notebook of the course keeps the same form, so that readers, papermill and GitHub agree."""

import ast
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
COURSE = sorted(FOLDER.glob("*.ipynb"))
SOLUTIONS = sorted((FOLDER / "solutions").glob("*.ipynb"))
ALL = COURSE + SOLUTIONS + sorted((FOLDER / "appendix").glob("*.ipynb"))

NAME = re.compile(r"[0-9]{2}_[a-z0-9]+(_[a-z0-9]+)*\.ipynb")
PARAMETER = re.compile(r"([a-z]\w*): (bool|int|float|str|list|dict) = [^=#]+  # \S.*")
TAGS = {"parameters", "check", "exercise", "widget", "nbval-ignore-output", "nbval-skip"}
KINDS = {"text/plain", "text/html", "text/markdown", "image/png"}
SHOWN = re.compile(r"<IPython\.core\.display\.|\((sliders|the explorer)|$")  # no artist, no array
LINK = re.compile(r"\]\(([^)\s]+)\)")
PLACE = re.compile(r"(?<![\w.:/])/(?:home|root|work|tmp|usr|Users)/")  # a path of some machine
MOST_CELLS = {**{f"0{number}": 40 for number in range(8)}, "10": 52, "11": 52, "12": 30}
MOST_LINES = 10  # of a function in a notebook, but for the one that is taught

each = pytest.mark.parametrize("path", ALL, ids=lambda p: str(p.relative_to(FOLDER)))
course = pytest.mark.parametrize("path", COURSE, ids=lambda p: p.name)
solutions = pytest.mark.parametrize("path", SOLUTIONS, ids=lambda p: p.name)


@cache
def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def cells_of(path: Path, kind: str) -> list[Any]:
    return [cell for cell in read(path).cells if cell.cell_type == kind]


def code_cells(path: Path) -> list[Any]:
    return cells_of(path, "code")


def is_tagged(cell: Any, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def texts(cell: Any) -> list[str]:
    """All text in the outputs of a cell."""
    found: list[str] = []
    for output in cell.outputs:
        data = output.get("data", {})
        found += [output.get("text", ""), *(v for k, v in data.items() if k.startswith("text/"))]
    return found


def tried(cell: Any) -> list[str]:
    """The checks that a cell runs, such as `check_united`, and the experiments it predicts."""
    found = re.findall(r'\bcheck_\w+|(?<=predict\()"\w*", \w+', cell.source)
    return [text.split()[-1] for text in found]


def test_names_numbers_and_solutions() -> None:
    assert all(NAME.fullmatch(path.name) for path in ALL), "wanted NN_slug.ipynb in lower case"
    numbers = [path.name[:2] for path in COURSE]
    assert len(set(numbers)) == len(numbers) > 0
    assert [path.name for path in SOLUTIONS] == [path.name for path in COURSE]


@each
def test_valid_for_the_kernel_that_everybody_has_and_without_traces_of_an_editor(
    path: Path,
) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}
    for cell in notebook.cells:
        folded = {"jupyter"} if is_tagged(cell, "check") else set()
        assert set(cell.metadata) - {"tags"} == folded, cell.id
        assert set(cell.metadata.get("tags", [])) <= TAGS, cell.id


@each
def test_it_begins_with_title_parameters_and_start(path: Path) -> None:
    first, second, third = read(path).cells[:3]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert second.metadata.get("tags") == ["parameters"]
    assert "start(seed)" in third.source


@course
def test_the_title_cell_says_what_a_learner_asks_first(path: Path) -> None:
    text = read(path).cells[0].source
    for wanted in ("uestion", "you can|able to", "2 cores", "ou need|Before", "minute|second"):
        assert re.search(wanted, text), f"the first cell does not say {wanted!r}"


@each
def test_parameters_are_plain_and_papermill_sees_them_all(path: Path) -> None:
    (cell,) = [cell for cell in read(path).cells if is_tagged(cell, "parameters")]
    lines = [line for line in cell.source.splitlines() if line.strip()]
    for line in lines:
        assert PARAMETER.fullmatch(line), f"wanted `name: type = value  # help`, got {line!r}"
    seen = papermill.inspect_notebook(path)
    assert list(seen) == [line.split(":")[0] for line in lines]
    for found in seen.values():
        assert found["inferred_type_name"] != "None"
        assert found["help"]
    assert {"fast", "seed"} <= set(seen)
    assert seen["fast"]["default"] == "True"


@each
def test_it_was_executed_in_order_and_its_outputs_are_for_every_reader(path: Path) -> None:
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1)), "run: python -m course.notebook execute"
    for cell in code_cells(path):
        for output in cell.outputs:
            assert output.output_type != "error", cell.id
            assert output.get("name") != "stderr", cell.id
            data = output.get("data", {})
            assert set(data) <= KINDS, cell.id
            assert SHOWN.match(data.get("text/plain", "")), f"cell {cell.id}: use show(figure)"
        for text in [cell.source, *texts(cell)]:
            assert not PLACE.search(text), f"cell {cell.id} shows a path: {text[:200]}"
            assert "Traceback (most recent call last)" not in text, cell.id
        assert not cell.source.rstrip().endswith(";"), cell.id


@course
def test_claims_are_checked(path: Path) -> None:
    checks = [cell for cell in code_cells(path) if is_tagged(cell, "check")]
    assert checks, "no cell is tagged `check`"
    assert all("check(" in cell.source for cell in checks)


@course
def test_exercises_are_offered_and_do_not_fail_the_notebook(path: Path) -> None:
    """Each exercise is a cell that tries the learner's function, which is not written yet."""
    cells = [cell for cell in code_cells(path) if tried(cell)]
    assert 3 <= len(cells) <= 5
    stub = re.compile(r'raise NotImplementedError|predict\("",')
    assert sum(bool(stub.search(cell.source)) for cell in code_cells(path)) >= len(cells)
    assert all("not done yet" in "".join(texts(cell)) for cell in cells)


@solutions
def test_solutions_solve_every_exercise(path: Path) -> None:
    asked = {name for cell in code_cells(FOLDER / path.name) for name in tried(cell)}
    solved = {name for cell in code_cells(path) for name in tried(cell)}
    assert asked <= solved, f"without a solution: {asked - solved}"
    for cell in code_cells(path):
        assert "raise NotImplementedError" not in cell.source
        assert not re.search(r"not done yet|not yet right|you said \w+:", "".join(texts(cell)))


@solutions
def test_solutions_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell by cell in this process: a kernel for each would take longer to start than to run."""
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("DSA_DATA", os.environ.get("DSA_DATA", str(ROOT / "data")))
    space: dict[str, Any] = {"__name__": "__main__"}
    for cell in code_cells(path):
        exec(compile(cell.source, f"{path.name}, cell {cell.id}", "exec"), space)


@course
def test_it_ends_with_a_summary_exercises_and_sources(path: Path) -> None:
    text = "\n".join(cell.source for cell in cells_of(path, "markdown"))
    for wanted in ("Summary", "Exercises", "Sources"):
        assert re.search(rf"^##? .*{wanted}", text, flags=re.M), f"no heading says {wanted!r}"


@each
def test_links_inside_the_repository_are_alive(path: Path) -> None:
    for cell in cells_of(path, "markdown"):
        for link in LINK.findall(cell.source):
            if not re.match(r"[a-z]+:|#", link):
                target = path.parent / link.split("#")[0]
                assert target.exists(), f"cell {cell.id}: {link} leads nowhere"


@course
def test_it_is_short_enough_to_read(path: Path) -> None:
    assert len(read(path).cells) <= MOST_CELLS.get(path.name[:2], 100)
    for cell in code_cells(path):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        if "start(seed)" not in cell.source and not is_tagged(cell, "check"):
            assert len(lines) <= 12, cell.id
            assert max(map(len, lines)) <= 100, cell.id
    long = [
        f"{node.name} ({length} lines)"
        for cell in code_cells(path)
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.FunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > MOST_LINES
    ]
    assert len(long) <= 1, f"more than the one function that is taught: {long}"
