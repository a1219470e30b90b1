"""The settings and the data of a search run by the lab."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from torch import nn

from dsa_core.allocation import Update
from dsa_core.budget import Budget
from dsa_core.channels import ChannelGraph
from dsa_core.dsa import DSA, Masked
from dsa_core.errors import ConfigError, nearest
from dsa_core.methods.dcss import DCSS
from dsa_core.methods.dtp import DTP
from dsa_core.methods.dtp_weight import DTPWeight
from dsa_core.methods.knapsack import Knapsack
from dsa_core.methods.morphnet import MorphNet
from dsa_core.methods.ssl import SSL
from dsa_core.methods.uniform import Random, Uniform
from dsa_core.ranking import Importance
from dsa_core.scheme import Method
from dsa_core.training import BatchSource, Task, TrainConfig, shapes_fingerprint

METHODS: dict[str, type[Method]] = {
    m.label: m for m in (DCSS, DSA, DTP, DTPWeight, Knapsack, MorphNet, Random, SSL, Uniform)
}
SHARING = (Method, Masked, DSA)  # every subclass inherits their settings from SearchConfig
OnStep = Callable[[Update], bool | None]


class AMCSettings(BaseModel):
    """Settings of AMC; the defaults are the paper's where it gives one.

    Attributes:
        episodes: allocations tried (400 in the paper, 800 for its hardest networks).
        random_episodes: how many of them, at the start, take random actions; the agent learns
            after those.
        keep_least: smallest keep ratio allowed (0.2).
        reward_examples: largest number of held-out examples a reward is measured on (5000).
        importance: what ranks the channels of a group; AMC removes the smallest weights, "l1".
        noise, noise_decay: standard deviation of the truncated normal noise on an action in the
            first episode after the random ones, and its factor per further episode (0.5, 0.95).
        hidden: width of the two hidden layers of actor and critic (300).
        actor_lr, critic_lr: of Adam (1e-4, 1e-3).
        tau: of the target networks' moving average (0.01).
        batch_size: transitions in a learning step (64); there is one step per decision.
        memory_episodes: episodes that the replay memory holds (100, in the authors' code).
        save_every: episodes between two checkpoints.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    episodes: int = Field(default=400, ge=1)
    random_episodes: int = Field(default=100, ge=0)
    keep_least: float = Field(default=0.2, gt=0, lt=1)
    reward_examples: int = Field(default=5000, ge=1)
    importance: Importance = "l1"
    noise: float = Field(default=0.5, gt=0)
    noise_decay: float = Field(default=0.95, gt=0, le=1)
    hidden: int = Field(default=300, ge=1)
    actor_lr: float = Field(default=1e-4, gt=0)
    critic_lr: float = Field(default=1e-3, gt=0)
    tau: float = Field(default=0.01, gt=0, le=1)
    batch_size: int = Field(default=64, ge=1)
    memory_episodes: int = Field(default=100, ge=1)
    save_every: int = Field(default=20, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> "AMCSettings":
        if self.random_episodes > self.episodes:
            raise ValueError(
                f"random_episodes={self.random_episodes} is more than episodes={self.episodes}: "
                "the first of all episodes are random"
            )
        return self


class SearchConfig(DSA):
    """Settings of a search: those of DSA, and:

    Attributes:
        train: the weights' training; `train.epochs` counts the search and its warm-up.
        warmup_epochs: epochs before the first mask (20 in the paper, from random weights).
        ratio_batch_size: examples in a held-out batch; None for the batch size of the weights.
        amc, dcss, dtp, morphnet, ssl: settings of those methods (dtp also of dtp-weight); None for
            their defaults. Settings shared by all methods are as above unless set there.
    """

    train: TrainConfig
    warmup_epochs: int = Field(default=0, ge=0)
    ratio_batch_size: int | None = Field(default=None, ge=1)
    amc: AMCSettings | None = None
    dcss: DCSS | None = None
    dtp: DTP | None = None
    morphnet: MorphNet | None = None
    ssl: SSL | None = None

    def method(self, name: str) -> Method:
        """The settings of one method: its own if given, and the shared ones.

        Raises:
            ConfigError: no method that runs inside a Pruner has this name.
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
        """Leave out what is not set, so that a new method or setting changes no old hash.

        A shared setting that is not set for a method is left out there: written down, it would
        count as set when read back.
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
    """The data of a search: the training set in two parts, 90 : 10 in the paper.

    With `estimator="free"` only the first part is used.

    Attributes:
        weights: batches that train the weights.
        ratios: held-out batches, for methods that use them.
        task: loss and score.
        checkpoint: file written after each epoch and resumed from, or None.
        progress: show a bar.
        held_out: the examples of `ratios`, each once and without augmentation, for methods that
            only measure scores; None: use `ratios`.
    """

    weights: BatchSource
    ratios: BatchSource
    task: Task
    checkpoint: Path | None = None
    progress: bool = True
    held_out: BatchSource | None = None


@dataclass(frozen=True)
class SearchJob:
    """One search: what every method is called with.

    Attributes:
        model: dense network, on its device; most methods train it in place.
        graph: of the model.
        budget: to reach.
        data, config: how it is trained.
        seed: of the masks.
        on_step: called with every update of the keep ratios; True ends the search.
    """

    model: nn.Module
    graph: ChannelGraph
    budget: Budget
    data: SearchData
    config: SearchConfig
    seed: int
    on_step: OnStep | None = None

    def fingerprint(self, method: str) -> dict[str, str]:
        """What a file written beside the checkpoint of the search must agree with."""
        parts = {"weights": self.data.weights, "ratios": self.data.ratios}
        return {
            "method": method,
            "seed": str(self.seed),
            "budget": repr(self.budget),
            "model": shapes_fingerprint(self.model),
            "config": self.config.model_dump_json(),
            **{f"{n} {k}": v for n, part in parts.items() for k, v in part.fingerprint().items()},
        }
