"""The settings of a search in the lab's harness, and what it learns from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from dsa_core.allocation import Update
from dsa_core.dsa import DSA, Masked
from dsa_core.errors import ConfigError, nearest
from dsa_core.methods.amc_settings import AMCSettings
from dsa_core.methods.dcss import DCSS
from dsa_core.methods.dtp import DTP
from dsa_core.methods.dtp_weight import DTPWeight
from dsa_core.methods.knapsack import Knapsack
from dsa_core.methods.morphnet import MorphNet
from dsa_core.methods.ssl import SSL
from dsa_core.methods.uniform import Random, Uniform
from dsa_core.scheme import Method
from dsa_core.training import BatchSource, Task, TrainConfig

METHODS: dict[str, type[Method]] = {
    m.label: m for m in (DCSS, DSA, DTP, DTPWeight, Knapsack, MorphNet, Random, SSL, Uniform)
}
SHARING = (Method, Masked, DSA)  # their settings are those of every method that inherits them
OnStep = Callable[[Update], bool | None]


class SearchConfig(DSA):
    """How a method searches; the settings of DSA, and besides:

    Attributes:
        train: the weights' training; `train.epochs` counts the search and its warm-up.
        warmup_epochs: plain epochs before the first mask (20 in the paper, from random weights).
        ratio_batch_size: examples of a held-out batch; None for as many as of a weight step.
        amc, dcss, dtp, morphnet, ssl: settings of those methods (dtp also of dtp-weight); None for
            their defaults. What all methods share is as above where it is not set there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: TrainConfig
    warmup_epochs: int = Field(default=0, ge=0)
    ratio_batch_size: int | None = Field(default=None, ge=1)
    amc: AMCSettings | None = None
    dcss: DCSS | None = None
    dtp: DTP | None = None
    morphnet: MorphNet | None = None
    ssl: SSL | None = None

    def method(self, name: str) -> Method:
        """The settings of one method: its own where they are given, and those that all share.

        Raises:
            ConfigError: there is no method of that name, or it is no scheme of the Pruner.
        """
        kind = METHODS.get(name)
        if kind is None:
            raise ConfigError(f"unknown method {name!r}{nearest(name, METHODS)}")
        bases = [base for base in SHARING if issubclass(kind, base)]
        shared = {k: getattr(self, k) for base in bases for k in base.model_fields}
        given = getattr(self, name.partition("-")[0], None)
        own = {} if given is None else given.model_dump(exclude_unset=True)
        return kind(**shared | own)

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not set: a new method or setting changes no old hash.

        What a method shares with all must not be written where it is not set, or it would be.
        """
        fields: dict[str, Any] = handler(self)
        for name in METHODS.keys() & fields.keys():
            own = getattr(self, name)
            if own is not None:
                unset = Method.model_fields.keys() - own.model_fields_set
                fields[name] = {k: v for k, v in fields[name].items() if k not in unset}
        return {k: v for k, v in fields.items() if v is not None or k == "settings"}


@dataclass(frozen=True)
class SearchData:
    """What a search learns from: a split, 90 : 10 in the paper.

    With `estimator="free"` only the first part is used.

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
