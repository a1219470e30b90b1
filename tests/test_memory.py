"""Freed memory is kept for the next step."""

import os
import subprocess
import sys

import pytest
import torch

from dsa_core.training.memory import _configure_malloc, keep_freed_memory

COUNT = """
import resource, sys
import torch
from dsa_core.training import keep_freed_memory
told = sys.argv[1] == "keep" and keep_freed_memory(torch.device("cpu"))
for i in range(30):
    if i == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(3 * 2**22) for _ in range(2)]  # 48 MB each
    del blocks  # as a step frees its activations
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
# glibc, left alone, maps blocks of more than 32 MB anew each time; of smaller ones it depends on
# what else lies in the heap
PAGES = 20 * 2 * 12288  # of all blocks together


def faults(way: str) -> tuple[str, int]:
    """What `keep_freed_memory` said, and the page faults of 20 rounds."""
    ours = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    command = [sys.executable, "-c", COUNT, way]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, check=True)
    told, count = done.stdout.split()
    return told, int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_blocks_come_from_memory_that_was_freed() -> None:
    told, kept = faults("keep")
    if told == "False":
        pytest.skip("another C library")
    _, fresh = faults("leave")
    assert kept < PAGES / 50 < PAGES / 10 < fresh


def test_nothing_is_told_for_another_device_or_where_the_user_has_chosen(monkeypatch) -> None:
    assert keep_freed_memory(torch.device("meta")) is False
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert _configure_malloc.__wrapped__() is False
