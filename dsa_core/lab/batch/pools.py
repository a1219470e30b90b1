"""Executors of runs on a dask cluster that shares the folders of this machine."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from dsa_core.errors import ConfigError

START_TIMEOUT_S = 60.0


@contextmanager
def scheduler_pool(address: str) -> Iterator[Executor]:
    """Run on the workers of a dask scheduler, one run per thread; ConfigError if none answers."""
    distributed = needed("distributed")
    try:
        client = distributed.Client(address, timeout=START_TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no dask scheduler answers at {address!r}: {error}") from error
    with client, client.get_executor(pure=False, retries=0) as pool:
        yield pool


@contextmanager
def slurm_pool(workers: int) -> Iterator[Executor]:
    """Submit `workers` jobs to SLURM and run on them; ConfigError if dask's settings lack some."""
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
    """Import a module of the extra `cluster`; ConfigError says how to get it."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        return import_module(name)
    except ImportError:
        raise ConfigError(
            f"this needs {name}: pip install 'dsa_core[cluster]', or run here with --workers"
        ) from None
    finally:
        if signal.getsignal(signal.SIGINT) != handler:  # dask_jobqueue overrides Ctrl-C
            signal.signal(signal.SIGINT, handler)


def threads_of(workers: int) -> dict[str, str]:
    """Share the cores among concurrent runs, unless the user has set the threads."""
    if workers == 1 or "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}
