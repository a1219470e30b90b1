"""The configuration of one run."""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from dsa_core.budget import Budget, Resource
from dsa_core.errors import BudgetError, ConfigError, first_problem, nearest
from dsa_core.lab.calibration import Calibration, read_calibration
from dsa_core.lab.models.weights import file_digest
from dsa_core.lab.runs.changes import changed, named
from dsa_core.lab.runs.preset import Preset
from dsa_core.lab.runs.presets import PRESETS
from dsa_core.methods import ALLOCATORS, METHODS

RESOURCES: tuple[Resource, ...] = get_args(Resource)
Ratio = Annotated[float, Field(gt=0, le=1)]


class RunConfig(BaseModel):
    """Everything that decides the outcome of a run; frozen, and an unknown name is an error.

    Attributes:
        method: an allocator's name.
        model, dataset: as `models.build` and `data.load` know them.
        resource, ratio: the budget, a ratio in (0, 1] of the dense cost.
        also: ratios of other resources, if the budget limits several. `resource` is then the first
            of macs, params, latency, so that one budget has one hash.
        floors, divisor: see `Budget`.
        preset_name, preset: how it trains.
        seed: of weights, batches and masks.
        weights: SHA-256 of a file of dense weights to start from, 64 hexadecimal digits; None
            trains the dense network.
        calibration: for a latency budget, the latency model of this machine; else None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = "dsa"
    model: str
    dataset: str
    resource: Resource = "macs"
    ratio: Ratio
    also: dict[Resource, Ratio] = {}
    floors: dict[str, float] = {}
    divisor: int = Field(default=1, ge=1)
    preset_name: str = "custom"
    preset: Preset
    seed: int = Field(default=0, ge=0, lt=1 << 64)
    weights: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    calibration: Calibration | None = None

    @field_validator("method")
    @classmethod
    def _known(cls, method: str) -> str:
        if method not in ALLOCATORS:
            raise ConfigError(f"unknown method {method!r}{nearest(method, ALLOCATORS)}")
        return method

    @model_validator(mode="before")
    @classmethod
    def _in_order(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not given.get("also"):
            return given
        first = given.get("resource", "macs")
        if first in given["also"]:
            raise BudgetError(f"also: {first} is limited already, by resource and ratio")
        asked = {first: given.get("ratio"), **given["also"]}
        (resource, ratio), *others = sorted(asked.items(), key=lambda item: place(item[0]))
        return given | {"resource": resource, "ratio": ratio, "also": dict(others)}

    @field_validator("floors")
    @classmethod
    def _sorted(cls, floors: dict[str, float]) -> dict[str, float]:
        return dict(sorted(floors.items()))  # their order must not change the hash

    @model_validator(mode="after")
    def _calibrated(self) -> "RunConfig":
        check_calibrated(self.asked, self.calibration)
        return self

    @model_validator(mode="after")
    def _split_of_something(self) -> "RunConfig":
        if self.preset.dense_split and (self.weights or self.preset.dense is None):
            raise ConfigError(
                "dense_split: this run trains no dense network (its weights are given, or random)"
            )
        return self

    @property
    def asked(self) -> dict[Resource, float]:
        """The ratio of each limited resource, `resource` first."""
        return {self.resource: self.ratio, **self.also}

    @property
    def budget(self) -> Budget:
        """The budget for the cost model."""
        return Budget(
            **self.asked,
            floors=self.floors,
            divisor=self.divisor,
            calibrated=None if self.calibration is None else self.calibration.cost(),
        )

    def text(self) -> str:
        """The JSON that is hashed; fields added later appear only if set, to keep old hashes."""
        later = {"weights", "calibration", "also"}
        return self.model_dump_json(exclude={name for name in later if not getattr(self, name)})

    @property
    def hash(self) -> str:
        """Ten hexadecimal digits that name this configuration."""
        return short_hash(self.text())

    @property
    def series(self) -> str:
        """Ten digits that name the configuration without its seed; averages are over a series."""
        return short_hash(self.model_copy(update={"seed": 0}).text())

    @property
    def folder(self) -> str:
        """Name of the run's folder."""
        budget = [f"{resource}{ratio:g}" for resource, ratio in self.asked.items()]
        parts = [file_name(self.model), file_name(self.dataset), self.method, *budget]
        return "-".join([*parts, f"seed{self.seed}", self.hash[:6]])

    @property
    def dense_folder(self) -> str:
        """Name of the folder of the dense network, shared by all runs that start from it.

        Weights from a file depend on no seed and no setting: runs of all seeds share them.
        """
        names = [file_name(self.model), file_name(self.dataset)]
        if names != [self.model, self.dataset]:  # others may have the same name as a file
            names.append(short_hash(f"{self.model} {self.dataset}")[:6])
        if self.weights is not None:
            return "-".join([*names, "weights", self.weights[:10]])
        settings = self.preset.dense.model_dump_json() if self.preset.dense else "untrained"
        if self.preset.dense_split:
            settings += f" of {self.preset.weights_fraction}"
        key = short_hash(settings)[:6]
        return "-".join([*names, f"seed{self.seed}", key])


def place(resource: str) -> int:
    """Position of a resource within a budget; unknown ones come last."""
    return RESOURCES.index(resource) if resource in RESOURCES else len(RESOURCES)


def check_calibrated(asked: Collection[Resource], calibration: Calibration | Path | None) -> None:
    """Refuse a latency budget without a calibration, and a calibration for any other budget."""
    if ("latency" in asked) != (calibration is not None):
        raise BudgetError(
            "a calibration is for a budget of latency, and such a budget needs one: "
            "`dsa calibrate MODEL`, then --calibration FILE with --budget latency=0.6; "
            f"the budget is of {', '.join(asked)}"
        )


def file_name(text: str) -> str:
    """The name of a model or dataset, made safe for a path."""
    return "".join(c if c.isalnum() or c in "_." else "_" for c in text)


def short_hash(text: str) -> str:
    """The first ten hexadecimal digits of SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def configure(
    preset: str,
    *,
    method: str = "dsa",
    model: str | None = None,
    dataset: str | None = None,
    resource: Resource = "macs",
    ratio: float = 0.5,
    also: Mapping[Resource, float] | None = None,
    floors: dict[str, float] | None = None,
    divisor: int = 1,
    seed: int = 0,
    weights: Path | None = None,
    calibration: Path | None = None,
    changes: Mapping[str, str] | None = None,
) -> RunConfig:
    """Make a configuration from a preset's name; model and dataset default to the preset's.

    `also` limits other resources beside `resource`: ratio=0.5, also={"params": 0.3}.
    The configuration holds the SHA-256 of `weights`, a file of dense weights to start from, and the
    contents of `calibration`, a file written by `dsa calibrate`. `changes` are settings of the
    preset by their path, see `changed`. A method that learns nothing does not search where the
    dense weights are cut, unless `changes` say for how many epochs.

    Raises:
        ConfigError: a name is unknown, with the nearest as a hint; a setting is out of range; or a
            file cannot be read.
        BudgetError: a latency budget has no calibration, or another budget has one.
    """
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}{nearest(preset, PRESETS)}")
    chosen, epochs = changed(PRESETS[preset](), changes or {}), "search.train.epochs"
    idle = chosen.cut.weights == "dense" and method in METHODS and not METHODS[method].learns
    if idle and epochs not in (changes or {}):
        chosen = changed(chosen, {epochs: "0"})
    check_calibrated({resource, *(also or {})}, calibration)
    try:
        return RunConfig(
            method=method,
            model=model or chosen.model,
            dataset=dataset or chosen.dataset,
            resource=resource,
            ratio=ratio,
            also=dict(also or {}),
            floors=floors or {},
            divisor=divisor,
            preset_name=named(preset, changes or {}),
            preset=chosen,
            seed=seed,
            weights=None if weights is None else file_digest(weights),
            calibration=None if calibration is None else read_calibration(calibration),
        )
    except ValidationError as error:
        raise ConfigError(first_problem(error)) from None
