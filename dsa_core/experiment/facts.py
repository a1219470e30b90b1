"""Facts about the machine and the code that go into a record."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = ("dsa_core", "torch", "torchvision", "numpy")


def versions() -> dict[str, str]:
    """Versions of python and of the packages that numbers depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def device_name(device: torch.device) -> str:
    """The name of the GPU, or how many threads of which processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads, {processor()}"


def processor() -> str:
    """The processor's own name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def git_commit() -> str | None:
    """The commit of the source tree, "+" behind it if files were changed; None outside of one."""
    ours = git("ls-files", "--error-unmatch", __file__)  # an installed copy lies in no tree of ours
    return ours and git("describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*")


def git(*words: str) -> str | None:
    """What a git command prints when run beside this file; None if it fails."""
    command, here = ["git", *words], Path(__file__).parent
    try:
        found = subprocess.run(
            command, cwd=here, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
