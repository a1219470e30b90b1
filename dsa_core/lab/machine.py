"""Which machine this is; timings mean nothing without it."""

import os
import platform
from pathlib import Path

import torch


def device_name(device: torch.device) -> str:
    """The name of the GPU, or how many threads of which processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads, {processor()}"


def machine() -> dict[str, str | int]:
    """Processor, cores available to this process, threads, torch version, GPU."""
    allowed = getattr(os, "sched_getaffinity", None)
    cores = len(allowed(0)) if allowed is not None else os.cpu_count() or 1
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "not run"
    return {
        "cpu": processor(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "gpu": gpu,
    }


def processor() -> str:
    """The processor name, if the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
