"""Seeds that depend on names, not on how many random numbers were drawn before."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def step_seed(seed: int, *labels: int | str) -> int:
    """Hash a run's seed and some labels into a seed of its own.

    The first 63 bits of SHA-256 over the text of (seed, labels): the same on every machine and in
    every process, so that "epoch 7 of run 3" means the same random numbers whether or not the run
    was interrupted.

    Args:
        seed: seed of the run.
        labels: what the numbers are for, such as ("order", epoch).

    Returns:
        Integer in [0, 2**63).
    """
    text = repr((int(seed), *labels)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def generator(seed: int, *labels: int | str) -> torch.Generator:
    """Make a generator seeded by `step_seed`, on the CPU: data do not depend on the device."""
    return torch.Generator().manual_seed(step_seed(seed, *labels))


@contextmanager
def isolated_rng(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Give a block random numbers of its own: torch's state comes back as it was.

    Args:
        device: whose numbers, besides the CPU's.
        seed: to start from; None to start from the state as it is.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if seed is not None:
            torch.manual_seed(seed)
        yield
