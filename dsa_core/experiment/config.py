"""The configuration of one run."""

import hashlib

from pydantic import BaseModel, ConfigDict, Field, field_validator

from dsa_core.allocators import ALLOCATORS
from dsa_core.cost import Budget, Resource
from dsa_core.errors import ConfigError, nearest
from dsa_core.experiment.presets import PRESETS, Preset


class RunConfig(BaseModel):
    """Everything that decides the outcome of a run; frozen, and an unknown name is an error.

    Attributes:
        method: an allocator's name.
        model, dataset: as `models.build` and `data.load` know them.
        resource, ratio: the budget, a ratio in (0, 1] of the dense cost.
        floors, divisor: see `Budget`.
        preset_name, preset: how it trains.
        seed: of weights, batches and masks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = "dsa"
    model: str
    dataset: str
    resource: Resource = "macs"
    ratio: float = Field(gt=0, le=1)
    floors: dict[str, float] = {}
    divisor: int = Field(default=1, ge=1)
    preset_name: str = "custom"
    preset: Preset
    seed: int = 0

    @field_validator("method")
    @classmethod
    def _known(cls, method: str) -> str:
        if method not in ALLOCATORS:
            raise ConfigError(f"unknown method {method!r}{nearest(method, ALLOCATORS)}")
        return method

    @field_validator("floors")
    @classmethod
    def _sorted(cls, floors: dict[str, float]) -> dict[str, float]:
        return dict(sorted(floors.items()))  # the order they were given in must not change the hash

    @property
    def budget(self) -> Budget:
        """The budget as the cost model takes it."""
        macs, params = (self.ratio, None) if self.resource == "macs" else (None, self.ratio)
        return Budget(macs=macs, params=params, floors=self.floors, divisor=self.divisor)

    @property
    def hash(self) -> str:
        """Ten hexadecimal digits that name this configuration."""
        return short_hash(self.model_dump_json())

    @property
    def series(self) -> str:
        """Ten digits that name the configuration without its seed: the runs to average over."""
        return short_hash(self.model_copy(update={"seed": 0}).model_dump_json())

    @property
    def folder(self) -> str:
        """Name of the run's folder."""
        budget = f"{self.resource}{self.ratio:g}"
        parts = [file_name(self.model), file_name(self.dataset), self.method, budget]
        return "-".join([*parts, f"seed{self.seed}", self.hash[:6]])

    @property
    def dense_folder(self) -> str:
        """Name of the folder of the dense network, which all runs that start from it share."""
        settings = self.preset.dense.model_dump_json() if self.preset.dense else "untrained"
        key = short_hash(settings)[:6]
        return "-".join([file_name(self.model), file_name(self.dataset), f"seed{self.seed}", key])


def file_name(text: str) -> str:
    """A name of a model or dataset with nothing a path would trip over."""
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
    floors: dict[str, float] | None = None,
    divisor: int = 1,
    seed: int = 0,
) -> RunConfig:
    """Make a configuration from a preset's name; model and dataset default to the preset's.

    Raises:
        ConfigError: a name is unknown; suggests the nearest.
    """
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}{nearest(preset, PRESETS)}")
    if method not in ALLOCATORS:
        raise ConfigError(f"unknown method {method!r}{nearest(method, ALLOCATORS)}")
    chosen = PRESETS[preset]()
    return RunConfig(
        method=method,
        model=model or chosen.model,
        dataset=dataset or chosen.dataset,
        resource=resource,
        ratio=ratio,
        floors=floors or {},
        divisor=divisor,
        preset_name=preset,
        preset=chosen,
        seed=seed,
    )
