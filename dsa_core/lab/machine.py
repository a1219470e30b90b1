"""Which machine and which code this is; results mean nothing without them."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = ("dsa_core", "torch", "torchvision", "numpy")


def device_name(device: torch.device) -> str:
    """The name of the GPU, or how many threads of which processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads, {processor()}"


def machine() -> dict[str, str | int]:
    """Processor, cores available to this process, threads, torch version, GPU."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "not run"
    return {
        "cpu": processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "gpu": gpu,
    }


def cores() -> int:
    """Processors that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


def processor() -> str:
    """The processor name, if the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


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
