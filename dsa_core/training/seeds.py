"""Seeds derived from labels, independent of how many random numbers were drawn before."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def step_seed(seed: int, *labels: int | str) -> int:
    """Hash a run's seed and some labels, such as ("order", epoch), into a new seed in [0, 2**63).

    The first 63 bits of SHA-256 over the text of (seed, labels): the same on every machine and in
    every process, so "epoch 7 of run 3" gives the same random numbers whether or not the run was
    interrupted.
    """
    text = repr((int(seed), *labels)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def generator(seed: int, *labels: int | str) -> torch.Generator:
    """A generator seeded by `step_seed`, on the CPU, so that data do not depend on the device."""
    return torch.Generator().manual_seed(step_seed(seed, *labels))


@contextmanager
def isolated_rng(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Restore torch's random state, of the CPU and of a device, after a block.

    A `seed` is for the block; None: start from the current state.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if seed is not None:
            torch.manual_seed(seed)
        yield
