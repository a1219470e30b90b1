"""Processes that train together, as torch starts them: not a test itself."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

Work = Callable[[int, int, Path], object]


def in_processes(work: Work, size: int, out: Path) -> list[dict]:
    """What `work(rank, size, out)` returns on every rank, tensors, numbers and text."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_rank, args=(work, size, port, out), nprocs=size)
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
