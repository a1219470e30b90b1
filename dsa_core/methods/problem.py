"""One search, stated: everything that decides how it goes."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from dsa_core.budget import Budget, Cost, QuadraticForm, budget_at, sharpness_at
from dsa_core.channels import ChannelGraph
from dsa_core.errors import ConfigError
from dsa_core.methods.config import SearchConfig, SearchData
from dsa_core.training import device_of_model, shapes_fingerprint


@dataclass(frozen=True)
class Problem:
    """Everything that decides how a search goes.

    Attributes:
        method: name of the allocator.
        model: dense network, trained or not, on its device; it is trained in place.
        graph: of the model.
        budget: to reach.
        data: what it learns from.
        config: how.
        seed: of the masks.
    """

    method: str
    model: nn.Module
    graph: ChannelGraph
    budget: Budget
    data: SearchData
    config: SearchConfig
    seed: int

    def __post_init__(self) -> None:
        epochs, warmup = self.config.train.epochs, self.config.warmup_epochs
        if warmup >= epochs:
            raise ConfigError(
                f"warmup_epochs={warmup} leaves no epoch to search in: train.epochs={epochs} "
                "counts the warm-up too"
            )
        self.budget.check(self.cost)

    @cached_property
    def cost(self) -> Cost:
        """Of the resource that the budget limits."""
        return self.budget.cost(self.graph)

    @property
    def form(self) -> QuadraticForm:
        """That cost as a ratio of the dense one, in keep ratios."""
        return self.cost.relative

    @cached_property
    def floors(self) -> Tensor:
        """Smallest keep ratio of every group, float64, shape (K,)."""
        return self.budget.least_counts(self.cost).double() / self.cost.sizes

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return device_of_model(self.model)

    @property
    def per_epoch(self) -> int:
        """Weight steps of an epoch."""
        return len(self.data.weights)

    @property
    def warmup(self) -> int:
        """Plain weight steps before the first mask."""
        return self.config.warmup_epochs * self.per_epoch

    def clock(self, step: int) -> tuple[int, int]:
        """Steps of the search done, and in all: its clock starts after the warm-up."""
        return step - self.warmup, self.config.train.epochs * self.per_epoch - self.warmup

    def sharpness(self, step: int) -> float:
        """Give beta2 of a weight step."""
        first, last = self.config.sharpness_first, self.config.sharpness_last
        return sharpness_at(*self.clock(step), first=first, last=last)

    def budget_at(self, step: int) -> float:
        """Give what is asked for at a weight step, of the dense cost."""
        ratio, part = self.budget.ratio, self.config.anneal_fraction
        return budget_at(*self.clock(step), start=1.0, end=ratio, anneal_fraction=part)

    def fingerprint(self) -> dict[str, str]:
        """What a checkpoint must agree with."""
        weights = {f"weights {k}": v for k, v in self.data.weights.fingerprint().items()}
        ratios = {f"ratios {k}": v for k, v in self.data.ratios.fingerprint().items()}
        own = {
            "method": self.method,
            "seed": str(self.seed),
            "budget": repr(self.budget),
            "model": shapes_fingerprint(self.model),
            "config": self.config.model_dump_json(),
        }
        return weights | ratios | own
