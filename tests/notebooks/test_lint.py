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
LINK = re.compile(r"\]\(([^)\s]+)\)")
PLACE = re.compile(r"(?<![\w.:/])/(?:home|root|work|tmp|usr|Users)/")  # a path of some machine
ARTIST = re.compile(r"\b(plot|bar|barh|hist|scatter|imshow|set_\w+|subplots?|legend|Figure)\(.*\)$")
MOST_CELLS = {**{f"0{number}": 40 for number in range(8)}, "10": 52, "11": 52, "12": 30}
MOST_LINES = 10  # of a function in a notebook, but for the one that is taught

each = pytest.mark.parametrize("path", ALL, ids=lambda p: str(p.relative_to(FOLDER)))
course = pytest.mark.parametrize("path", COURSE, ids=lambda p: p.name)


@cache
def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list[Any]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def tagged(path: Path, tag: str) -> list[Any]:
    return [cell for cell in read(path).cells if tag in cell.metadata.get("tags", [])]


def last_expression(source: str) -> str:
    """The source of the last statement, if it is an expression; else nothing."""
    body = ast.parse(source).body
    if not body or not isinstance(body[-1], ast.Expr):
        return ""
    return ast.get_source_segment(source, body[-1]) or ""


def parts(output: Any) -> list[str]:
    """All text in one output."""
    data = output.get("data", {})
    texts = [v for k, v in data.items() if k.startswith("text/")]
    return [str(output.get("text", "")), *map(str, texts), *output.get("traceback", [])]


def test_there_are_notebooks() -> None:
    assert COURSE


@each
def test_name_and_number(path: Path) -> None:
    assert NAME.fullmatch(path.name), f"{path.name}: wanted NN_slug.ipynb in lower case"


def test_no_two_notebooks_share_a_number() -> None:
    numbers = [path.name[:2] for path in COURSE]
    assert len(set(numbers)) == len(numbers)


@course
def test_every_notebook_has_its_solutions(path: Path) -> None:
    assert (FOLDER / "solutions" / path.name).exists()


@each
def test_valid_and_for_the_kernel_that_everybody_has(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert dict(notebook.metadata.language_info) == {"name": "python"}


@each
def test_no_widget_state_and_no_traces_of_an_editor(path: Path) -> None:
    assert "widgets" not in read(path).metadata
    assert "widget-view" not in path.read_text()
    for cell in read(path).cells:
        wanted = {"jupyter"} if folded(cell) else set()
        assert set(cell.metadata) - {"tags"} == wanted, f"cell {cell.id}: {set(cell.metadata)}"


@each
def test_tags_are_known(path: Path) -> None:
    for cell in read(path).cells:
        tags = cell.metadata.get("tags", [])
        assert set(tags) <= TAGS, f"cell {cell.id}: {tags}; known are {sorted(TAGS)}"


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
    for wanted in ("uestion", "you can|able to", "2 cores", "ou need|Before"):
        assert re.search(wanted, text), f"the first cell does not say {wanted!r}"
    assert re.search(r"minute|second", text), "how long does it take?"


@each
def test_parameters_are_plain_and_papermill_sees_them_all(path: Path) -> None:
    (cell,) = tagged(path, "parameters")
    lines = [line for line in cell.source.splitlines() if line.strip()]
    for line in lines:
        assert PARAMETER.fullmatch(line), f"wanted `name: type = value  # help`, got {line!r}"
    names = [line.split(":")[0] for line in lines]
    seen = papermill.inspect_notebook(path)
    assert list(seen) == names
    assert all(seen[name]["inferred_type_name"] != "None" for name in names)
    assert all(seen[name]["help"] for name in names)
    assert {"fast", "seed"} <= set(names)
    assert seen["fast"]["default"] == "True"


@each
def test_every_code_cell_was_executed_in_order(path: Path) -> None:
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1)), "run: python -m course.notebook execute"


@each
def test_outputs_hold_no_error_and_no_place_on_a_machine(path: Path) -> None:
    for cell in code_cells(path):
        for output in cell.outputs:
            assert output.output_type != "error"
            for text in parts(output):
                assert "Traceback (most recent call last)" not in text
                assert not PLACE.search(text), f"cell {cell.id} shows a path: {text[:200]}"
        assert not PLACE.search(cell.source), f"cell {cell.id} names a path"


@each
def test_no_warning_and_no_bar_on_the_error_stream(path: Path) -> None:
    for cell in code_cells(path):
        streams = [output.get("name") for output in cell.outputs]
        assert "stderr" not in streams, f"cell {cell.id} wrote to stderr"


@each
def test_images_are_png(path: Path) -> None:
    for cell in code_cells(path):
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        assert kinds <= {"text/plain", "text/html", "text/markdown", "image/png"}


@each
def test_no_cell_ends_in_an_artist(path: Path) -> None:
    for cell in code_cells(path):
        last = last_expression(cell.source)
        assert not cell.source.rstrip().endswith(";"), f"cell {cell.id}: it ends in a semicolon"
        assert not ARTIST.search(last), f"cell {cell.id} ends in {last!r}: use show(figure)"
        for output in cell.outputs:
            text = output.get("data", {}).get("text/plain", "")
            assert "matplotlib" not in text, f"cell {cell.id} shows an artist: {text!r}"


@course
def test_claims_are_checked(path: Path) -> None:
    checks = tagged(path, "check")
    assert checks, "no cell is tagged `check`"
    assert all("check(" in cell.source for cell in checks)


@course
def test_exercises_are_offered_and_do_not_fail_the_notebook(path: Path) -> None:
    """Each exercise is a cell that tries the learner's function, which is not written yet."""
    cells = [cell for cell in code_cells(path) if tried(cell)]
    assert 3 <= len(cells) <= 5
    stub = re.compile(r'raise NotImplementedError|predict\("",')
    assert sum(bool(stub.search(cell.source)) for cell in code_cells(path)) >= len(cells)
    shown = ["".join(text for o in cell.outputs for text in parts(o)) for cell in cells]
    assert all("not done yet" in text for text in shown)


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda p: p.name)
def test_solutions_solve_every_exercise(path: Path) -> None:
    asked = {name for cell in code_cells(FOLDER / path.name) for name in tried(cell)}
    solved = {name for cell in code_cells(path) for name in tried(cell)}
    assert asked <= solved, f"without a solution: {asked - solved}"
    assert "raise NotImplementedError" not in "".join(cell.source for cell in code_cells(path))
    shown = "".join(text for c in code_cells(path) for o in c.outputs for text in parts(o))
    assert not re.search(r"not done yet|not yet right|you said \w+:", shown)


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda p: p.name)
def test_solutions_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell by cell in this process: a kernel for each would take longer to start than to run."""
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("DSA_DATA", os.environ.get("DSA_DATA", str(ROOT / "data")))
    space: dict[str, Any] = {"__name__": "__main__"}
    for cell in code_cells(path):
        exec(compile(cell.source, f"{path.name}, cell {cell.id}", "exec"), space)


def tried(cell: Any) -> list[str]:
    """The checks that a cell runs, such as `check_united`, and the experiments it predicts."""
    found = re.findall(r'\bcheck_\w+|(?<=predict\()"\w*", \w+', cell.source)
    return [text.split()[-1] for text in found]


@course
def test_it_ends_with_a_summary_exercises_and_sources(path: Path) -> None:
    headings = re.findall(r"^##? (.+)$", "\n".join(c.source for c in markdown(path)), flags=re.M)
    text = " ".join(headings)
    for wanted in ("Summary", "Exercises", "Sources"):
        assert wanted in text, f"no heading says {wanted!r}"


def markdown(path: Path) -> list[Any]:
    return [cell for cell in read(path).cells if cell.cell_type == "markdown"]


@each
def test_links_inside_the_repository_are_alive(path: Path) -> None:
    for cell in markdown(path):
        for link in LINK.findall(cell.source):
            if not re.match(r"[a-z]+:|#", link):
                target = path.parent / link.split("#")[0]
                assert target.exists(), f"cell {cell.id}: {link} leads nowhere"


@course
def test_cells_are_short(path: Path) -> None:
    cells = [c.source for c in code_cells(path) if "start(seed)" not in c.source and not folded(c)]
    assert max(sum(bool(line.strip()) for line in cell.splitlines()) for cell in cells) <= 12
    assert max(len(line) for cell in cells for line in cell.splitlines()) <= 100


@course
def test_a_notebook_is_read_in_one_sitting(path: Path) -> None:
    assert len(read(path).cells) <= MOST_CELLS.get(path.name[:2], 100)


def folded(cell: Any) -> bool:
    """Whether readers see it only when they ask."""
    return "check" in cell.metadata.get("tags", [])


@course
def test_functions_in_notebooks_are_short(path: Path) -> None:
    long = [
        f"{node.name} ({length} lines)"
        for cell in code_cells(path)
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.FunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > MOST_LINES
    ]
    assert len(long) <= 1, f"more than the one function that is taught: {long}"
