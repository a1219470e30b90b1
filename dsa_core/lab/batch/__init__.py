"""A notebook over a grid of parameters: `dsa batch FILE.yaml`.

    batch.yaml --read_spec--> BatchSpec --jobs_of--> jobs --run_batch--> runs/<batch>/<run>/

Each folder holds the executed notebook, parameters.json, run.json (the state of the run) and, if
the notebook writes one, record.json for `dsa report`.
"""
