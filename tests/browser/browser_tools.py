"""What the browser tests need: a browser, a server on a free port, and patience."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "learner"
NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
PATIENCE_S = float(os.environ.get("DSA_BROWSER_PATIENCE_S", "180"))  # of a start on a busy machine


def executable() -> str | None:
    """The path of a browser."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def missing() -> str:
    """Why there is no browser test here; empty if there is one."""
    for module in ("playwright", "voila", "jupyterlab"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed: pip install -e '.[dev]'"
    if not executable():
        return f"no browser ({', '.join(NAMES)}): run tests/browser/install.sh"
    return ""


def only_here(route: Any) -> None:
    """Let requests to this machine pass, and abort all others."""
    here = route.request.url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:"))
    route.continue_() if here else route.abort()


@contextmanager
def serving(folder: Path, *words: str) -> Iterator[str]:
    """Run `python -m WORDS` until the block ends; {port} in the words is filled in."""
    port = free_port()
    command = [word.format(port=port) for word in words]
    log = folder / "server.log"
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=environment(folder),
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/", server, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
        print(log.read_text()[-4000:])  # pytest shows it if the test failed


def environment(folder: Path) -> dict[str, str]:
    """This process's, with settings and state of Jupyter in a folder of the test."""
    places = {f"JUPYTER_{n}_DIR": str(folder / n.lower()) for n in ("CONFIG", "DATA", "RUNTIME")}
    ours = {
        "JUPYTER_TOKEN": TOKEN,
        "DSA_ROOT": str(ROOT),
        "IPYTHONDIR": str(folder / "ipython"),
        **places,
    }
    inherited = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
    return {**inherited, "OMP_NUM_THREADS": "1", **ours}


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server answers anything at all."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended at once:\n{log.read_text()[-2000:]}")
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except urllib.error.HTTPError:
            return  # it asks for the token
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"no answer from {url} in {PATIENCE_S} s:\n{log.read_text()[-2000:]}")
