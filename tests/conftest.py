"""What every test shares: one tolerance table, the data folder, and how torch uses the machine."""

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# Benchmarks measure, they do not judge: run them with `pytest tests/benchmarks`.
collect_ignore = [] if any("benchmarks" in arg for arg in sys.argv) else ["benchmarks"]

# A property is tried on a hundred cases, the same ones each time; `make check` looks for new ones.
settings.register_profile("test", deadline=None, max_examples=100, derandomize=True)
settings.register_profile("check", deadline=None, max_examples=3000)
settings.load_profile("test")

# The one table. Relative: a few dozen roundings; absolute: the same for numbers of size one.
TOLERANCES = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-10},
    torch.float32: {"rtol": 1e-5, "atol": 1e-6},
    torch.bfloat16: {"rtol": 2e-2, "atol": 1e-2},
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests first, each on its own; then whole modules, the small ones last, to fill up."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    sizes = Counter(item.path for item in items)
    for item in items:
        if "slow" not in item.keywords:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
    items.sort(key=lambda item: (0,) if "slow" in item.keywords else (1, -sizes[item.path]))


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    """Tests are small; more threads would only spin, most of all under xdist."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(min(torch.get_num_threads(), 1 if workers > 1 else 2))


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """A test draws the same numbers alone and after any other."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_works() -> None:
    """A shell that runs the tests in the background makes them, and their children, deaf to it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tolerance() -> Callable[[torch.dtype], dict[str, float]]:
    """rtol and atol for a dtype: `assert_close(a, b, **tolerance(a.dtype))`."""
    return lambda dtype: dict(TOLERANCES[dtype])


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of downloaded data, from DSA_DATA or data/; skips where it does not exist."""
    root = Path(os.environ.get("DSA_DATA", "data"))
    if not root.is_dir():
        pytest.skip(f"data folder {root} is missing: set DSA_DATA or see data/README.md")
    return root
