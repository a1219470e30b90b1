"""A grid of notebook runs, from a YAML file to the list of its jobs."""

import hashlib
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dsa_core.errors import ConfigError, first_problem, nearest
from dsa_core.lab.batch.parameters import Parameter, Value, fit_all, parameters_of

OUT = "out"  # the parameter that the batch sets itself: the folder of the run
SEED = "seed"
SETTINGS = ("method", "model", "dataset", "resource", "ratio", "divisor", "seed")
DIGITS = 10  # of a job's hash


class BatchSpec(BaseModel):
    """The contents of the YAML file.

    Attributes:
        notebook: path, relative to the folder of the YAML file.
        parameters: of the notebook; a list is an axis of the grid, any other value is shared by all
            runs. (For a parameter that is itself a list, give a list of lists.)
        seeds: values of the parameter `seed`; each grid point runs once per seed.
        minutes_each: approximate duration of a run, for the estimate before any has finished.
        timeout_minutes: a longer run is stopped.
        cell_timeout_minutes: a run with a longer cell fails.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    notebook: Path
    parameters: dict[str, Any] = {}
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    minutes_each: float | None = Field(default=None, gt=0)
    timeout_minutes: float = Field(default=24 * 60, gt=0, allow_inf_nan=False)
    cell_timeout_minutes: float = Field(default=24 * 60, gt=0, allow_inf_nan=False)


class Job(BaseModel):
    """One run of a notebook.

    Attributes:
        id: name of its folder: the values that vary within the batch, and the hash.
        notebook: absolute path.
        parameters: all parameters of the notebook except `out`.
        takes_out: whether the notebook has a parameter for the folder of its run.
        timeout_s, cell_timeout_s: limits, in seconds.
        config_hash: names notebook and parameters.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    notebook: Path
    parameters: dict[str, Value]
    takes_out: bool
    timeout_s: float
    cell_timeout_s: float
    config_hash: str


def read_spec(path: Path) -> BatchSpec:
    """Read a batch from its YAML file.

    Raises:
        ConfigError: the file is missing or not YAML, or an entry is unknown or of a wrong type.
    """
    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"there is no batch {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold `notebook:`, `parameters:` and so on")
    for name in content:
        if name not in BatchSpec.model_fields:
            known = nearest(str(name), BatchSpec.model_fields)
            raise ConfigError(f"{path}: a batch has no entry {name!r}{known}")
    try:
        spec = BatchSpec.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error)}") from None
    return spec.model_copy(update={"notebook": (path.parent / spec.notebook).resolve()})


def jobs_of(spec: BatchSpec) -> list[Job]:
    """All runs of a batch, with every parameter checked.

    Runs that differ only in their seed are adjacent: workers that start together then train
    different dense networks, which later runs reuse.

    Raises:
        ConfigError: a parameter is unknown or invalid, or two runs are the same.
        BudgetError: a budget is out of range.
    """
    known = parameters_of(spec.notebook)
    if SEED in spec.parameters:
        raise ConfigError("give seeds as `seeds: [0, 1]`, not among the parameters")
    axes = {n: v if isinstance(v, list) else [v] for n, v in spec.parameters.items()}
    axes |= {SEED: list(spec.seeds)} if SEED in known or spec.seeds != (0,) else {}
    for name, values in axes.items():
        if not values:
            raise ConfigError(f"parameter {name!r} has an empty list: the grid has no runs")
    named = [name for name, values in axes.items() if len(values) > 1 or name == SEED]
    points = [dict(zip(axes, p, strict=True)) for p in itertools.product(*axes.values())]
    jobs = [job_of(spec, known, point, named=named) for point in points]
    for name, times in Counter(job.id for job in jobs).items():
        if times > 1:  # they would share a folder
            raise ConfigError(f"the run {name} appears twice: is a value of the grid repeated?")
    for job in jobs:
        check_settings(job.parameters)
    return jobs


def check_settings(parameters: dict[str, Value]) -> None:
    """Refuse what `configure` would: a notebook that takes a method and a preset is a run of them.

    Raises:
        ConfigError: a name is unknown, or a number is out of range.
    """
    if not {"method", "preset"} <= parameters.keys():
        return
    from dsa_core.lab import data, models  # torch takes a second
    from dsa_core.lab.runs.config import configure

    given: dict[str, Any] = {n: v for n, v in parameters.items() if n in SETTINGS and v != ""}
    config = configure(str(parameters["preset"]) or "tiny", **given)
    if ":" not in config.model:
        models.require_known(config.model)
    if ":" not in config.dataset and config.dataset not in data.names():
        hint = nearest(config.dataset, data.names())
        raise ConfigError(f"unknown dataset {config.dataset!r}{hint}")


def job_of(
    spec: BatchSpec,
    known: dict[str, Parameter],
    point: dict[str, Any],
    *,
    named: list[str],
) -> Job:
    """One job, its parameters checked."""
    settable = {name: p for name, p in known.items() if name != OUT}
    parameters = fit_all(settable, point)
    key = config_hash(spec.notebook, parameters)
    words = [spelled(settable[name], parameters[name]) for name in named]
    return Job(
        id="-".join([*words, key[:6]]),
        notebook=spec.notebook,
        parameters=parameters,
        takes_out=OUT in known,
        timeout_s=60 * spec.timeout_minutes,
        cell_timeout_s=60 * spec.cell_timeout_minutes,
        config_hash=key,
    )


def config_hash(notebook: Path, parameters: dict[str, Value]) -> str:
    """Ten hexadecimal digits that name a notebook and its parameters, in any order."""
    text = json.dumps([notebook.name, parameters], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def spelled(parameter: Parameter, value: Value) -> str:
    """A value as part of a folder name: strings as they are, numbers after their name."""
    text = str(value) if parameter.type == "str" else f"{parameter.name}{value}"
    return "".join(c if c.isalnum() or c in "_." else "_" for c in text)
