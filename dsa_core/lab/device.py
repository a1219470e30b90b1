"""The device of this process, and its share of the processors."""

import os

import torch
from accelerate import PartialState

from dsa_core.lab.machine import cores

MOST_READERS = 8


def device_of() -> torch.device:
    """Give the device of this process, as Accelerate sees it (one of several GPUs, or the CPU)."""
    return PartialState().device


def image_readers() -> int:
    """Worker processes for images: one a processor that is this rank's share, at most 8."""
    return max(1, min(MOST_READERS, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
