"""The settings of a search, and what it learns from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from dsa_core.allocation import Update
from dsa_core.budget import PaperSettings, PricedSettings
from dsa_core.masks import Estimator
from dsa_core.methods.settings.amc import AMCSettings
from dsa_core.methods.settings.dcss import DCSSSettings
from dsa_core.methods.settings.dtp import DTPSettings
from dsa_core.methods.settings.morphnet import MorphNetSettings
from dsa_core.methods.settings.ssl import SSLSettings
from dsa_core.training import BatchSource, Task, TrainConfig

OnStep = Callable[[Update], bool | None]
# "taylor" is left out: it lives on the gradients of the step before, which no checkpoint holds
SearchImportance = Literal["gamma_first", "gamma_all", "l1", "l2"]


class SearchConfig(BaseModel):
    """How an allocator searches; frozen, and an unknown name is an error.

    Attributes:
        train: the weights' training; `train.epochs` counts the search and its warm-up.
        warmup_epochs: plain epochs before the first mask (20 in the paper, from random weights).
        optimizer: of the keep ratios, "priced" or "paper" (see `admm`).
        settings: of that optimiser; None for its defaults.
        estimator: of the keep-ratio gradient. "mixed" by argument (`masks.estimator_mask`):
            six seeds on the digits do not tell it from the others (notebook 12).
        importance: what ranks the channels of a group, see `masks.importance`.
        ratio_every: weight steps for each update of the keep ratios (20 in the paper).
        ratio_batch_size: examples of an update; None for as many as of a weight step.
        sharpness_first, sharpness_last: beta2 at the ends of the search, geometric in between. The
            masks of the last steps should be nearly those that are cut: up to 80 serves better than
            up to 20 (notebook 12).
        anneal_fraction: share of the search in which the budget falls from the dense cost to what
            is asked; 0 asks for it at once, as the paper does. The rest trains at the fixed budget.
        prob_floor: smallest keep probability while weights train (0.01 in the authors' released
            code).
        fix_when_met: change no keep ratio once the budget is met (the paper's flow).
        amc, dcss, dtp, morphnet, ssl: settings of those methods; None for their defaults.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: TrainConfig
    warmup_epochs: int = Field(default=0, ge=0)
    optimizer: str = "priced"
    settings: PricedSettings | PaperSettings | None = None
    estimator: Estimator = "mixed"
    importance: SearchImportance = "gamma_first"
    ratio_every: int = Field(default=2, ge=1)
    ratio_batch_size: int | None = Field(default=None, ge=1)
    sharpness_first: float = Field(default=5.0, gt=0)
    sharpness_last: float = Field(default=80.0, gt=0)
    anneal_fraction: float = Field(default=0.6, ge=0, le=1)
    prob_floor: float = Field(default=0.0, ge=0, lt=1)
    fix_when_met: bool = False
    amc: AMCSettings | None = None
    dcss: DCSSSettings | None = None
    dtp: DTPSettings | None = None
    morphnet: MorphNetSettings | None = None
    ssl: SSLSettings | None = None

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
        ratios: batches that give the keep ratios their gradient.
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
