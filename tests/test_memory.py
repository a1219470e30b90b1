"""Freed memory is kept for the next step."""

import os
import subprocess
import sys

import pytest
import torch

from dsa_core.training.memory import _tell_malloc, keep_freed_memory

COUNT = """
import resource
import torch
from dsa_core.training import keep_freed_memory
told = keep_freed_memory(torch.device("cpu"))
for i in range(60):
    if i == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**21)  # 8 MB, freed at once
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**variables: str) -> tuple[str, int]:
    """What `keep_freed_memory` said, and page faults of 50 blocks of 2,048 pages."""
    ours = ("MALLOC_", "GLIBC_", "LD_PRELOAD")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        [sys.executable, "-c", COUNT],
        env=clean | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    told, count = done.stdout.split()
    return told, int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_blocks_come_from_memory_that_was_freed() -> None:
    told, kept = faults()
    if told == "False":
        pytest.skip("another C library")
    theirs, fresh = faults(MALLOC_MMAP_THRESHOLD_="131072")  # the user has chosen
    assert theirs == "False"
    assert kept < 2048 < 20 * 2048 < fresh


def test_nothing_is_told_where_the_user_has_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert _tell_malloc.__wrapped__() is False


def test_nothing_is_told_for_another_device() -> None:
    assert keep_freed_memory(torch.device("meta")) is False
