"""The settings of a search in the lab's harness, and what it learns from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from dsa_core.allocation import Update
from dsa_core.dsa import DSA
from dsa_core.errors import ConfigError, nearest
from dsa_core.methods.settings.amc import AMCSettings
from dsa_core.methods.settings.dcss import DCSSSettings
from dsa_core.methods.settings.dtp import DTPSettings
from dsa_core.methods.settings.morphnet import MorphNetSettings
from dsa_core.methods.settings.ssl import SSLSettings
from dsa_core.methods.uniform import Random, Uniform
from dsa_core.scheme import Method
from dsa_core.training import BatchSource, Task, TrainConfig

METHODS: dict[str, type[Method]] = {m.label: m for m in (DSA, Uniform, Random)}
OnStep = Callable[[Update], bool | None]


class SearchConfig(DSA):
    """How a method searches; the settings of DSA, and besides:

    Attributes:
        train: the weights' training; `train.epochs` counts the search and its warm-up.
        warmup_epochs: plain epochs before the first mask (20 in the paper, from random weights).
        ratio_batch_size: examples of a held-out batch; None for as many as of a weight step.
        amc, dcss, dtp, morphnet, ssl: settings of those methods; None for their defaults.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: TrainConfig
    warmup_epochs: int = Field(default=0, ge=0)
    ratio_batch_size: int | None = Field(default=None, ge=1)
    amc: AMCSettings | None = None
    dcss: DCSSSettings | None = None
    dtp: DTPSettings | None = None
    morphnet: MorphNetSettings | None = None
    ssl: SSLSettings | None = None

    def method(self, name: str) -> Method:
        """The settings of one method: its own where they are given, and those that all share.

        Raises:
            ConfigError: there is no method of that name, or it is no scheme of the Pruner.
        """
        kind = METHODS.get(name)
        if kind is None:
            raise ConfigError(f"unknown method {name!r}{nearest(name, METHODS)}")
        shared = {k: getattr(self, k) for k in kind.model_fields if k in DSA.model_fields}
        own = getattr(self, name.partition("-")[0], None)
        return kind(**shared, **({} if own is None else own.model_dump(exclude_unset=True)))

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not set: a new method or setting changes no old hash."""
        fields: dict[str, Any] = handler(self)
        return {k: v for k, v in fields.items() if v is not None or k == "settings"}


@dataclass(frozen=True)
class SearchData:
    """What a search learns from: DSA gives 90 % of the data to the weights, 10 % to the ratios.

    Attributes:
        weights: batches that train the weights.
        ratios: held-out batches, for a method that asks for some.
        task: loss and score.
        checkpoint: file to save to after each epoch and to resume from, or None.
        progress: show a bar.
        held_out: the examples of `ratios`, each once and without augmentation, for a method that
            only looks at scores; None: `ratios` serve.
    """

    weights: BatchSource
    ratios: BatchSource
    task: Task
    checkpoint: Path | None = None
    progress: bool = True
    held_out: BatchSource | None = None
