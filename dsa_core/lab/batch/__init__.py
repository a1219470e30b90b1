"""A notebook over a grid of parameters: `dsa batch FILE.yaml`.

    batch.yaml --read_spec--> BatchSpec --jobs_of--> jobs --run_batch--> runs/<batch>/<run>/

Each folder holds the executed notebook, parameters.json, run.json (how far it is) and, where the
notebook makes one, record.json for `dsa report`.
"""

from dsa_core.lab.batch.pools import local_pool, scheduler_pool, slurm_pool
from dsa_core.lab.batch.run import run_batch
from dsa_core.lab.batch.spec import BatchSpec, Job, jobs_of, read_spec
from dsa_core.lab.batch.state import RunState, read_state

__all__ = [
    "BatchSpec",
    "Job",
    "RunState",
    "jobs_of",
    "local_pool",
    "read_spec",
    "read_state",
    "run_batch",
    "scheduler_pool",
    "slurm_pool",
]
