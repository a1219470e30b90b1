"""Processes of tests: forked from a server that has imported what they need; not a test itself."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

Work = Callable[[int, int, Path], object]
PRELOAD = ["torch._dynamo", "dsa_core.lab.cli", "dsa_core.lab.runs", "sklearn.datasets"]
PRELOAD += ["sklearn.model_selection", "problems_runs"]  # ten seconds of every process


@cache
def processes() -> ForkServerContext:
    """What starts them, in milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def in_processes(work: Work, size: int, out: Path) -> list[dict]:
    """What `work(rank, size, out)` returns on every rank, tensors, numbers and text."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    how = processes().get_start_method()
    mp.start_processes(_rank, args=(work, size, port, out), nprocs=size, start_method=how)
    files = [out / f"{size}-{rank}.pt" for rank in range(size)]
    return [torch.load(file, weights_only=True) for file in files]


def _rank(rank: int, work: Work, size: int, port: int, out: Path) -> None:
    torch.set_num_threads(1)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": rank, "LOCAL_RANK": rank,
               "WORLD_SIZE": size, "ACCELERATE_USE_CPU": "true"}  # fmt: skip
    os.environ.update({name: str(value) for name, value in address.items()})
    if size > 1:
        dist.init_process_group("gloo")
    torch.save(work(rank, size, out), out / f"{size}-{rank}.pt")
    if size > 1:
        dist.destroy_process_group()
