"""Where runs are handed to: threads of this machine, or a dask cluster that shares its folders."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from dsa_core.errors import ConfigError

START_TIMEOUT_S = 60.0


@contextmanager
def local_pool(workers: int) -> Iterator[Executor]:
    """Run so many at a time here; each is a process, the threads only wait for them."""
    with ThreadPoolExecutor(max_workers=workers) as pool:
        yield pool


@contextmanager
def scheduler_pool(address: str) -> Iterator[Executor]:
    """Hand runs to the workers of a dask scheduler, one to each thread that it has.

    Raises:
        ConfigError: the extra `cluster` is not installed, or nobody answers there.
    """
    distributed = needed("distributed")
    try:
        client = distributed.Client(address, timeout=START_TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no dask scheduler answers at {address!r}: {error}") from error
    with client, client.get_executor(pure=False, retries=0) as pool:
        yield pool


@contextmanager
def slurm_pool(workers: int) -> Iterator[Executor]:
    """Submit so many jobs to SLURM and run on them; queue, memory and so on are dask's settings.

    Raises:
        ConfigError: the extra `cluster` is not installed, or the settings do not suffice.
    """
    jobqueue = needed("dask_jobqueue")
    try:
        cluster = jobqueue.SLURMCluster()
    except (ValueError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"SLURM: {error}. Set cores, memory and queue in ~/.config/dask/jobqueue.yaml "
            "(https://jobqueue.dask.org)"
        ) from error
    with cluster:
        cluster.scale(jobs=workers)
        with scheduler_pool(cluster.scheduler_address) as pool:
            yield pool


def needed(name: str) -> Any:
    """Import a module of the extra `cluster`, or say how to get it."""
    from importlib import import_module

    handler = signal.getsignal(signal.SIGINT)
    try:
        return import_module(name)
    except ImportError:
        raise ConfigError(
            f"this needs {name}: pip install 'dsa_core[cluster]', or run here with --workers"
        ) from None
    finally:
        if signal.getsignal(signal.SIGINT) != handler:  # dask_jobqueue takes Ctrl-C for itself
            signal.signal(signal.SIGINT, handler)


def threads_of(workers: int) -> dict[str, str]:
    """Share the cores among runs that go side by side, unless the user did so already."""
    if workers == 1 or "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}
