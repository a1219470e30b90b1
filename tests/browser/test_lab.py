"""JupyterLab opens notebook 03: Run All ends without an error, and a slider redraws its plot."""

import re
import shutil
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from browser_tools import PATIENCE_S, ROOT, TOKEN, serving

pytestmark = pytest.mark.slow
NAME = "03_differentiable_masks.ipynb"


def prompts(page: Any) -> list[str]:
    """The prompts of the code cells that are in the page, such as "[3]:"."""
    found = page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()
    return [re.sub(r"\s", "", text) for text in found]


def is_idle(page: Any) -> None:
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").first.wait_for()


def run_all(page: Any) -> None:
    """Click until it is heard: before the kernel is idle it does nothing, and says nothing."""
    for _ in range(10):
        is_idle(page)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.wait_for_timeout(1500)
        if any(re.search(r"[\d*]", prompt) for prompt in prompts(page)):
            return
    raise AssertionError("Run All was not heard")


def test_run_all_and_a_slider(page: Any, tmp_path: Path) -> None:
    shutil.copy(ROOT / "notebooks" / NAME, tmp_path)  # Lab saves what it opens
    words = ["jupyterlab", "--no-browser", "--allow-root", "--port={port}", "--ip=127.0.0.1"]
    words += [f"--ServerApp.root_dir={tmp_path}", "--ServerApp.port_retries=0"]
    with serving(tmp_path, *words, "--LabApp.news_url=") as address:
        page.goto(f"{address}/lab/tree/{NAME}?token={TOKEN}&reset")
        page.locator(".jp-Notebook").first.wait_for()
        clear_outputs(page)
        run_all(page)
        ends_without_error(page)
        saves_what_ran(page, tmp_path / NAME)
        slider_redraws(page)
        page.goto("about:blank")


def clear_outputs(page: Any) -> None:
    """Saved outputs would look like fresh ones."""
    is_idle(page)
    page.get_by_role("menuitem", name="Edit", exact=True).click()
    page.get_by_role("menuitem", name="Clear Outputs of All Cells", exact=True).click()
    page.wait_for_timeout(500)


def ends_without_error(page: Any) -> None:
    """Wait until nothing is running or queued, and look for tracebacks."""
    page.wait_for_function(
        """() => {
            const all = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')];
            const texts = all.map(p => p.innerText.trim());
            const status = document.querySelector('.jp-Notebook-ExecutionIndicator').dataset.status;
            return status == 'idle' && texts.length > 5 && texts.every(t => !t.includes('*'))
                && texts.some(t => /\\d/.test(t));
        }""",
        timeout=4000 * PATIENCE_S,
    )
    page.wait_for_timeout(1000)
    errors = page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']")
    assert page.locator(".jp-RenderedText[data-mime-type*=error]").count() == 0
    assert "Traceback" not in " ".join(errors.all_inner_texts())
    assert page.locator(".jp-OutputArea-output img").count() > 0


def saves_what_ran(page: Any, path: Path) -> None:
    """The file knows all cells, the page only those near the ones in sight."""
    before = path.stat().st_mtime_ns
    page.keyboard.press("Control+s")
    deadline = time.monotonic() + PATIENCE_S
    while path.stat().st_mtime_ns == before or not path.read_text().endswith("}\n"):
        assert time.monotonic() < deadline, "the notebook was not saved"
        page.wait_for_timeout(200)
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert all(cell.execution_count for cell in cells if cell.source)
    assert not [o for cell in cells for o in cell.outputs if o.output_type == "error"]


def slider_redraws(page: Any) -> None:
    """Move the first slider; the plot in its panel becomes another one."""
    handle = page.locator(".noUi-handle").first
    handle.scroll_into_view_if_needed()
    plot = page.locator(".widget-image, img.jupyter-widgets").first
    before = plot.get_attribute("src")
    handle.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        """before => document.querySelector('.widget-image, img.jupyter-widgets').src != before""",
        arg=before,
    )
