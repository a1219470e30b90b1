"""Facts about the machine and the code that go into a record."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("dsa_core", "torch", "torchvision", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def git_commit() -> str | None:
    """Commit of the source tree, followed by "+" if it has changes; None outside a repository."""
    ours = git("ls-files", "--error-unmatch", __file__)  # an installed copy is in no tree of ours
    return ours and git("describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*")


def git(*words: str) -> str | None:
    """Output of a git command run beside this file; None if it fails."""
    command, here = ["git", *words], Path(__file__).parent
    try:
        found = subprocess.run(
            command, cwd=here, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
