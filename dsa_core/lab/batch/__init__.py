"""A notebook over a grid of parameters: `dsa batch FILE.yaml`.

    batch.yaml --read_spec--> BatchSpec --jobs_of--> jobs --run_batch--> runs/<batch>/<run>/

Each folder holds the executed notebook, parameters.json, run.json (the state of the run) and, if
the notebook writes one, record.json for `dsa report`.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "local_pool": "pools",
    "scheduler_pool": "pools",
    "slurm_pool": "pools",
    "run_batch": "run",
    "BatchSpec": "spec",
    "Job": "spec",
    "jobs_of": "spec",
    "read_spec": "spec",
    "RunState": "state",
    "read_state": "state",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Load a name when it is first used: nbformat takes seconds, and `dsa --help` needs none."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
