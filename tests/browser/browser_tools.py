"""What the browser tests need: a server on a free port, and patience."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "learner"
PATIENCE_S = 180  # of a start on a busy machine


@contextmanager
def serving(folder: Path, *words: str) -> Iterator[str]:
    """Run `python -m WORDS` until the block ends; {port} in the words is filled in.

    The server has settings and state of Jupyter in a folder of the test.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    places = {f"JUPYTER_{n}_DIR": str(folder / n.lower()) for n in ("CONFIG", "DATA", "RUNTIME")}
    ours = {"JUPYTER_TOKEN": TOKEN, "DSA_ROOT": str(ROOT), "IPYTHONDIR": str(folder / "ipython")}
    inherited = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
    log = folder / "server.log"
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", *(word.format(port=port) for word in words)],
            cwd=folder,
            env=inherited | {"OMP_NUM_THREADS": "1"} | ours | places,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(port, server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
        print(log.read_text()[-4000:])  # pytest shows it if the test failed


def wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    """Wait until a server listens."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        assert server.poll() is None, "the server ended at once"
        assert time.monotonic() < deadline, f"nobody listens after {PATIENCE_S} s"
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.2)
