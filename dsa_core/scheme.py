"""What a method is inside the Pruner.

A `Method` holds settings and makes a `Scheme`; a Scheme gives the mask of each step and turns
dL/dmask into new keep ratios; a `Problem` says what is pruned, to what budget, in how many steps;
the Pruner connects them to your loop.

DSA is in `dsa_core.dsa`; the other methods, in `dsa_core.methods`, are a scheme each as well.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from dsa_core.allocation import Allocation
from dsa_core.budget import Budget, Cost, QuadraticForm, Resource, budget_at, round_to_channels
from dsa_core.channels import ChannelGraph
from dsa_core.errors import BudgetError, ConfigError, TrainingError, check_whole
from dsa_core.masked_weights import MaskedWeights, Site, consumer_sites
from dsa_core.ranking import importance

Figures = dict[str, float]
# "taylor" is left out: it needs the previous step's gradients, which no checkpoint holds
SearchImportance = Literal["gamma_first", "gamma_all", "l1", "l2"]


class Method(BaseModel):
    """Settings of a method, and the factory of its scheme. Frozen; unknown names are errors.

    Attributes:
        importance: what ranks the channels of a group, see `ranking.importance`.
        ratio_every: weight steps for each update of the keep ratios (20 in the paper).
        anneal_fraction: share of the search in which the budget falls from the dense cost to what
            is asked; 0 asks for it at once, as the paper does. The rest trains at the fixed budget.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    label: ClassVar[str]
    several_resources: ClassVar[bool] = False  # whether one budget may limit more than one
    learns: ClassVar[bool] = True  # False: it uses no loss, and needs no step of a search

    importance: SearchImportance = "gamma_first"
    ratio_every: int = Field(default=2, ge=1)
    anneal_fraction: float = Field(default=0.6, ge=0, le=1)

    @property
    def follows_budget(self) -> bool:
        """Whether the search ends at the budget; if not, it knows none."""
        return True

    def scheme(self, problem: "Problem") -> "Scheme":
        """What runs inside a Pruner."""
        raise NotImplementedError

    def check_budget(self, budget: Budget) -> None:
        """Refuse a budget that has no meaning for the method; knows no network yet."""
        if not self.several_resources:
            check_one_resource(self.label, budget)


def check_one_resource(label: str, budget: Budget) -> None:
    """Refuse a budget of several resources for a method that follows one."""
    if len(budget.ratios) > 1:
        raise BudgetError(
            f"{label} follows one resource, the budget names {', '.join(budget.ratios)}: "
            "name one, or use a method that follows several, such as dsa"
        )


@dataclass(frozen=True)
class Problem:
    """What is searched, and on which clock.

    Attributes:
        model, graph: the dense network and its channels.
        budget: to reach.
        steps: weight steps of the search, the warm-up included.
        warmup: plain weight steps before the first mask.
        seed: of the masks.
        method: settings.
    """

    model: nn.Module
    graph: ChannelGraph
    budget: Budget
    steps: int
    warmup: int
    seed: int
    method: Method

    def check(self) -> None:
        """Refuse what cannot be searched.

        Raises:
            ConfigError: steps or warm-up are out of range, or `method` is not a Method.
            BudgetError: the budget is below the cost of the floors, or not one for this method.
        """
        if not isinstance(self.method, Method):
            raise ConfigError(
                f"method: wanted settings such as dsa.DSA() or dsa.methods.Uniform(), got "
                f"{self.method!r}; by its name a method is dsa.methods.METHODS[name]()"
            )
        if not self.graph.prunable:
            raise ConfigError("model: no channel of it can be removed; graph.report() says why")
        check_whole("steps", self.steps, 1 if self.method.learns else 0)
        check_whole("warmup_steps", self.warmup, 0)
        if self.warmup and self.warmup >= self.steps:
            raise ConfigError(
                f"warmup_steps={self.warmup} leaves no step to search in: steps={self.steps} "
                "counts the warm-up too"
            )
        self.method.check_budget(self.budget)
        self.budget.check(self.costs)

    @cached_property
    def costs(self) -> tuple[Cost, ...]:
        """Of the resources that the budget limits."""
        return self.budget.costs(self.graph)

    @cached_property
    def forms(self) -> tuple[QuadraticForm, ...]:
        """Those costs as ratios of the dense ones, in keep ratios."""
        return tuple(cost.relative for cost in self.costs)

    @property
    def cost(self) -> Cost:
        """The cost of the first resource."""
        return self.costs[0]

    @property
    def form(self) -> QuadraticForm:
        """Its form."""
        return self.forms[0]

    @cached_property
    def floors(self) -> Tensor:
        """Smallest keep ratio of every group, float64, shape (K,)."""
        return self.budget.least_counts(self.cost).double() / self.cost.sizes

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def clock(self, step: int) -> tuple[int, int]:
        """Steps of the search done, and in all: its clock starts after the warm-up.

        Without any step it is over from the beginning.
        """
        return (max(0, step - self.warmup), self.steps - self.warmup) if self.steps else (1, 1)

    def budgets_at(self, step: int) -> tuple[float, ...]:
        """Give what is asked for at a weight step, of each dense cost."""
        part = self.method.anneal_fraction if self.method.follows_budget else 0.0
        clock = self.clock(step)
        return tuple(
            budget_at(*clock, start=1.0, end=end, anneal_fraction=part)
            for end in self.budget.ratios.values()
        )

    def budget_at(self, step: int) -> float:
        """The same of the first resource."""
        return self.budgets_at(step)[0]

    def budget_now(self, step: int) -> Budget:
        """The budget as it is asked for at a weight step."""
        now: dict[Any, Any] = dict(zip(self.budget.ratios, self.budgets_at(step), strict=True))
        return replace(self.budget, latency_ms=None, **now)

    def met(self, alpha: Tensor, tolerance: float) -> bool:
        """Whether keep ratios are within the whole budget."""
        pairs = zip(self.forms, self.budget.ratios.values(), strict=True)
        return all(float(form(alpha)) <= ratio * (1 + tolerance) for form, ratio in pairs)

    def due(self, done: int) -> bool:
        """Whether the keep ratios move after `done` weight steps."""
        searched = done - self.warmup
        return searched >= 0 and searched % self.method.ratio_every == 0


class Scheme(ABC):
    """What differs from method to method; the Pruner does all the rest.

    Around weight step t (from 0) the Pruner asks for `mask(t)`, puts it on the `sites`, lets the
    user's forward and backward pass run, and hands dL/dmask to `step(t, ...)`.

    Attributes:
        problem: what is searched.
        held_out: whether an update needs a batch of its own, by `held_out_step`.
    """

    held_out = False

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where the mask multiplies: at the consumers of every channel."""
        return consumer_sites(self.problem.graph)

    @property
    def size(self) -> int:
        """Entries of a mask."""
        return self.problem.graph.n_channels

    @property
    @abstractmethod
    def keep_ratios(self) -> Tensor:
        """The present relaxed keep ratios, shape (K,), float64, on the CPU."""

    @property
    def costs(self) -> dict[Resource, float]:
        """What the present keep ratios cost, as a ratio of the dense network, by resource."""
        alpha, problem = self.keep_ratios, self.problem
        pairs = zip(problem.costs, problem.forms, strict=True)
        return {cost.resource: float(form(alpha)) for cost, form in pairs}

    @abstractmethod
    def mask(self, step: int) -> Tensor | None:
        """The mask of a weight step, shape (size,), no gradient; None trains the plain weights."""

    @abstractmethod
    def step(self, step: int, gradient: Tensor, lr: float) -> Figures | None:
        """Take the gradient of a weight step's loss with respect to its mask.

        Args:
            step: weight step, from 0.
            gradient: dL/dmask, shape (size,).
            lr: the weights' learning rate.

        Returns:
            The method's own figures if the keep ratios moved, for the history; else None.
        """

    def held_out_step(
        self, step: int, weights: MaskedWeights, loss: Callable[[], Tensor]
    ) -> Figures:
        """Move the keep ratios by a held-out batch, before a weight step."""
        raise NotImplementedError

    def penalty(self, step: int, lr: float) -> Tensor | None:
        """What the method adds to the loss of a weight step, shape (); nothing by default."""
        return None

    def importance(self, model: nn.Module | None = None) -> Tensor:
        """What ranks the channels of a group, shape (n,), on the model's device.

        Args:
            model: of whose weights, where it depends on those; None for the one that is searched.
        """
        model = model or self.problem.model
        return importance(model, self.problem.graph, self.problem.method.importance)

    def counts(self, budget: Budget) -> Tensor:
        """Whole channels that every group would keep under a budget now, int64, shape (K,)."""
        return round_to_channels(self.keep_ratios, self.problem.costs, budget)

    def weight_mask(self, budget: Budget) -> dict[str, Tensor] | None:
        """Which single weights stay, for a method that removes those."""
        return None

    def cut_mask(self, allocation: Allocation) -> Tensor:
        """The mask that stands for an allocation, shape (size,): evaluations run under it."""
        return allocation.keep

    def notes(self) -> dict[str, Any]:
        """What the method wants recorded at the end."""
        return {}

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything of its own that the next step depends on: tensors, numbers, text."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state; the next steps are the same to the bit."""


def held_out_slopes(
    weights: MaskedWeights, mask: Tensor, loss: Callable[[], Tensor]
) -> tuple[Tensor, Tensor]:
    """The slope of a loss in the mask, shape (size,), and the loss, shape ().

    The mask is on for this one pass; no gradient reaches the weights.

    Raises:
        TrainingError: a slope is not finite.
    """
    weights.put_on(mask)
    try:
        value = loss()
        gradients = torch.autograd.grad(value, weights.weights, allow_unused=True)
        slopes = weights.slopes(gradients)
    finally:
        weights.take_off()
    if not bool(slopes.isfinite().all()):
        raise TrainingError(
            f"held_out_step: the gradient of the held-out loss ({float(value.detach()):.4g}) is "
            "not finite; check the loss, or lower the learning rate. The keep ratios have not "
            "moved"
        )
    return slopes, value.detach()
