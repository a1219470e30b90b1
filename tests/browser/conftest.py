"""Browser tests: one browser for all of them; skipped, with the reason, where there is none."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from browser_tools import PATIENCE_S

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A browser without a screen."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser ({', '.join(NAMES)}): run tests/browser/install.sh")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A tall page that reaches nothing outside of this machine."""
    opened = browser.new_page(viewport={"width": 1200, "height": 2400})
    opened.set_default_timeout(1000 * PATIENCE_S)
    opened.route("**/*", only_here)
    yield opened
    opened.close()


def only_here(route: Any) -> None:
    """Let requests to this machine pass, and abort all others."""
    here = route.request.url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:"))
    route.continue_() if here else route.abort()
