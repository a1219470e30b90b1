"""What every notebook of the course shares: a start, checks, figures, sliders, and their execution.

python -m course.notebook execute notebooks/02_channel_groups.ipynb
"""

import argparse
import ast
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from IPython import get_ipython
from IPython.display import Image, display
from ipywidgets import HTML, Layout, VBox, Widget
from ipywidgets import Image as ImageWidget

from dsa_core.errors import BudgetError, ConfigError
from dsa_core.files import write_atomically
from dsa_core.lab.device import device_of

if TYPE_CHECKING:  # they take seconds to load, and a notebook that runs needs none of them
    from matplotlib.figure import Figure
    from nbformat import NotebookNode

CELL_TIMEOUT_S = 1800
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
VIEW = "application/vnd.jupyter.widget-view+json"
ALERT = "max-width:800px;padding:8px;border-left:4px solid #D55E00"


@dataclass(frozen=True)
class Session:
    """Where a notebook runs.

    Attributes:
        root: folder of the repository.
        data: datasets, from DSA_DATA or root/data.
        records: records that are shipped, data/records of the repository.
        runs: new records land here.
        device: a GPU where there is one.
        seed: what `start` was given.
    """

    root: Path
    data: Path
    records: Path
    runs: Path
    device: torch.device
    seed: int

    @property
    def campaigns(self) -> list[Path]:
        """Files of shipped records of whole presets, without the trials of changed settings."""
        files = sorted(self.records.glob("*.jsonl"))
        return [file for file in files if not file.stem.endswith("_variants")]


def start(seed: int) -> Session:
    """Begin a notebook: seed torch and numpy, find the folders, print two lines about the machine.

    This is the one place that changes the process: it also sets DSA_DATA where it is not set, so
    that datasets are found whatever folder the notebook runs in.

    Raises:
        ConfigError: no repository lies above the current folder, and DSA_ROOT names none; or
            papermill was given a parameter that the notebook does not take.
    """
    from dsa_core.lab.machine import versions

    if shell := get_ipython():
        check_injected(shell.user_ns["In"])
    root = find_root(Path.cwd())
    data = Path(os.environ.setdefault("DSA_DATA", str(root / "data"))).expanduser()
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    device, installed = device_of(), versions()
    print(", ".join(f"{name} {installed[name]}" for name in ("dsa_core", "torch", "python")))
    where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{where}, {torch.get_num_threads()} threads, seed {seed}")
    return Session(root, data, root / "data" / "records", root / "runs", device, seed)


def check_injected(cells: Sequence[str]) -> None:
    """Check what papermill was given with -p; papermill itself takes any name and any value.

    Args:
        cells: the sources that ran so far, as IPython's `In`: nothing, the parameters, and, if
            papermill was given some, those in a cell that begins with "# Parameters".

    Raises:
        ConfigError: the notebook has no parameter of this name, it is of another type, a whole
            number is negative, or a share (every float of the course is one) lies outside (0, 1].
    """
    if len(cells) < 3 or not cells[2].startswith("# Parameters"):
        return
    from dsa_core.lab.batch.parameters import fit_all, parameters_in

    known = parameters_in(cells[1], "this notebook")
    lines = [line for line in ast.parse(cells[2]).body if isinstance(line, ast.Assign)]
    given = {ast.unparse(line.targets[0]): ast.literal_eval(line.value) for line in lines}
    for name, value in fit_all(known, given).items():
        if type(value) is int and value < 0:
            raise ConfigError(f"parameter {name!r} must be 0 or more, got {value}")
        if type(value) is float and not 0 < value <= 1:
            raise ConfigError(f"parameter {name!r} is a share: wanted one in (0, 1], got {value}")


def find_root(here: Path) -> Path:
    """The folder of the repository: DSA_ROOT, else the nearest one upward that is one."""
    named = os.environ.get("DSA_ROOT")
    if named is not None:
        root = Path(named).expanduser().resolve()
        if not is_root(root):
            raise ConfigError(f"DSA_ROOT={named} is not the repository: it has no dsa_core folder")
        return root
    for folder in (here.resolve(), *here.resolve().parents):
        if is_root(folder):
            return folder
    raise ConfigError(
        f"no folder above {here} holds pyproject.toml and dsa_core: start the notebook inside the "
        "repository, or set DSA_ROOT to it"
    )


def is_root(folder: Path) -> bool:
    """Whether this folder is a clone of the repository."""
    return (folder / "pyproject.toml").is_file() and (folder / "dsa_core").is_dir()


def check(condition: object, message: str) -> None:
    """Assert what the prose says, and print it.

    Raises:
        AssertionError: the condition is false.
    """
    if not bool(condition):
        raise AssertionError(message)
    print(f"ok: {message}")


def show(figure: "Figure", *, alt: str | None = None) -> None:
    """Display a figure as a PNG on white, which also reads in dark mode; a cell may end in this.

    Args:
        figure: any matplotlib figure.
        alt: what it shows, in words, for readers who do not see it.
    """
    display(Image(data=drawn(figure), format="png", alt=alt))


def drawn(figure: "Figure", **options: Any) -> bytes:
    """A figure as PNG, with room for its labels; pyplot lets go of it, lest it is shown twice."""
    import matplotlib.pyplot as plt

    from dsa_core.lab.plots import png

    if figure.get_layout_engine() is None:
        figure.set_layout_engine("constrained")
    plt.close(figure)
    return png(figure, **options)


@contextmanager
def shown(problem: HTML) -> Iterator[None]:
    """Run a block of a callback, and show in `problem` what it raises.

    What cannot be had is an answer: its message is shown and nothing is raised. Any other error is
    shown with its traceback, and raised again under test.
    """
    try:
        yield
        problem.value = ""
    except (BudgetError, ConfigError) as error:
        problem.value = f'<div role="alert" style="{ALERT}">{escape(str(error))}</div>'
    except Exception:
        text = escape(traceback.format_exc())
        problem.value = f'<div role="alert" style="{ALERT}"><pre>{text}</pre></div>'
        if "PYTEST_CURRENT_TEST" in os.environ:
            raise


class Panel(VBox):
    """Controls above a plot that follows them; what went wrong stands below it.

    Attributes:
        controls: by the name of the argument of `draw` that each sets.
        plot: an image widget that holds the PNG.
        problem: an HTML widget, empty unless the last redraw failed.
    """

    def __init__(self, draw: "Callable[..., Figure]", controls: Mapping[str, Widget]) -> None:
        self.draw, self.controls = draw, dict(controls)
        picture = ImageWidget(value=self.png(), format="png", layout=Layout(width="800px"))
        self.plot, self.problem = picture, HTML()
        super().__init__([*self.controls.values(), self.plot, self.problem])
        for control in self.controls.values():
            control.observe(self.redraw, names="value")

    def png(self) -> bytes:
        """The plot that the controls ask for."""
        values: dict[str, Any] = {name: c.value for name, c in self.controls.items()}
        return drawn(self.draw(**values), dpi=100)

    def redraw(self, change: object) -> None:
        """Redraw from the values of the controls."""
        with shown(self.problem):
            self.plot.value = self.png()

    def __repr__(self) -> str:
        return f"(sliders: {', '.join(self.controls)}; run this notebook to move them)"


def execute(path: Path, *, timeout_s: int = CELL_TIMEOUT_S) -> "NotebookNode":
    """Run a notebook in its own folder and save it with its outputs, whole or not at all.

    Saved are sources, tags, outputs and execution counts; widget state, view ids, timings and what
    an editor left in the metadata are not.

    Args:
        path: of the notebook; overwritten if every cell ran.
        timeout_s: longest time of a cell, in seconds.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; the file stays as it was.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_name=KERNEL["name"],
        timeout=timeout_s,
        resources={"metadata": {"path": str(path.resolve().parent)}},
        record_timing=False,
        store_widget_state=False,
    )
    client.execute()
    strip(notebook)
    nbformat.validate(notebook)
    write_atomically(path, nbformat.writes(notebook) + "\n")
    return notebook


def strip(notebook: "NotebookNode") -> None:
    """Leave only kernel, language, tags and outputs, and fold the checks; in place."""
    from nbformat import NotebookNode

    notebook.metadata = NotebookNode(
        kernelspec=NotebookNode(KERNEL), language_info=NotebookNode(name="python")
    )
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        tags = cell.metadata.get("tags")
        cell.metadata = NotebookNode(tags=tags) if tags else NotebookNode()
        if "check" in (tags or ()):
            cell.metadata.jupyter = NotebookNode(source_hidden=True)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if not strip_output(o)]


def strip_output(output: "NotebookNode") -> bool:
    """Remove a widget's view, dead without its state; return whether nothing is left to show."""
    data = output.get("data")
    if data is None:
        return False
    data.pop(VIEW, None)
    return not data


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m course.notebook execute FILE...`; exit code 1 if a notebook failed."""
    from nbclient.exceptions import CellExecutionError

    parser = argparse.ArgumentParser(prog="python -m course.notebook", description=main.__doc__)
    parser.add_argument("action", choices=["execute"])
    parser.add_argument("files", nargs="+", type=Path)
    failed = 0
    for path in parser.parse_args(arguments).files:
        try:
            execute(path)
            print(f"{path}: saved with its outputs")
        except CellExecutionError as error:
            failed += 1
            print(f"{path}: a cell failed, the file is unchanged\n{error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
