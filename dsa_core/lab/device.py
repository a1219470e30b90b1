"""The device of this process."""

import torch
from accelerate import PartialState


def device_of() -> torch.device:
    """Give the device of this process, as Accelerate sees it (one of several GPUs, or the CPU)."""
    return PartialState().device
