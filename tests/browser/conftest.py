"""A browser for the tests of this folder; they skip, with the reason, where there is none."""

from collections.abc import Iterator
from typing import Any

import pytest
from browser_tools import FLAGS, PATIENCE_S, ROOT, executable, missing, only_here


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = missing()
    for item in items:
        if item.path.is_relative_to(ROOT / "tests" / "browser"):
            item.add_marker(pytest.mark.slow)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A browser without a screen."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable(), args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A tall page that reaches nothing outside of this machine."""
    opened = browser.new_page(viewport={"width": 1200, "height": 2400})
    opened.set_default_timeout(1000 * PATIENCE_S)
    opened.route("**/*", only_here)
    yield opened
    opened.close()
