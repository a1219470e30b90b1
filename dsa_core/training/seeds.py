"""Seeds that depend on names, not on how many random numbers were drawn before."""

import hashlib

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
