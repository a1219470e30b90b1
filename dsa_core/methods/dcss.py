"""Differentiable channel sparsity search: every group chooses among candidate keep counts."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from dsa_core.budget import Budget, PricedSettings, round_to_channels, sharpness_at, step_scale_at
from dsa_core.kernels.segments import places, segment_ids
from dsa_core.masked_weights import MaskedWeights
from dsa_core.methods.dcss_budget import make_choices
from dsa_core.methods.dcss_choice import candidates_of, staircase
from dsa_core.scheme import Figures, Method, Problem, Scheme, held_out_slopes
from dsa_core.training.processes import average


class DCSS(Method):
    """Every group has candidate keep counts with logits; a softmax mixes them.

    Since the candidates are nested, the mixture is one network under one mask, the `staircase`.
    Logits and weights descend together; at the end each group keeps its most probable candidate.
    The cost is the quadratic form at the expected keep ratios. That equals E[F] of independent
    choices except for the variance of groups that read themselves, sum_k Q_kk Var(alpha_k) >= 0,
    which goes to 0 as the groups decide.

    Deviations from the paper, which leaves all settings below open: masks act at the consumers of a
    channel, not on the filters that make it (`masks`); the logits descend on the training loss
    ("free"), where the paper uses validation data; the budget is met by ADMM on the expected
    ratios, unless `budget="penalty"`. How the logits move, and the pressure on them to decide, is
    described in `dcss_budget.Choices`.

    Attributes:
        fractions: candidate keep counts of a group, as shares of its channels, ascending, in (0,
            1]; rounded to whole channels that the budget allows, at least one. The last is 1, so
            that a group can keep everything.
        estimator: "free": the logits' gradient comes from the training's own backward passes.
            "held_out": from a held-out batch before every update (`Pruner.held_out_step`).
        budget: "admm" lands on the budget in every update; "penalty" adds
            `penalty` * log F to the loss, as the paper does, and has no budget.
        penalty: lambda, in units of the loss: the loss that one log MAC must save.
        ratios: settings of the optimizer of the expected keep ratios, see `budget.Priced`; the
            gradient of the logits is averaged with the same factors.
        lr: step of the logits, > 0: a candidate that stays better than the others of its group by
            their spread gains about this much on them per update.
        curvature: of the initial logits, >= 0, see `dcss_tilt.bell_logits`.
        firmness: pressure on every group to decide, >= 0, relative to the gradient of the data, see
            `dcss_budget.Choices`; 0 leaves groups undecided between extremes.
        temperature_first, temperature_last: of the softmax at the ends of the search, geometric in
            between; falling, so that every group decides.
        settle_from: share of the search, in [0, 1], after which groups settle on a candidate, one
            after another and all but the last by its end, see `dcss_budget.Choices`; at 1
            none does, and a group whose expected ratio lies between two candidates ends undecided.

    Source: Zhao and Lee, DCSS: differentiable channel sparsity search via weight sharing within
        filters (arXiv:2010.14714).
    """

    label: ClassVar[str] = "dcss"

    fractions: tuple[float, ...] = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
    estimator: Literal["free", "held_out"] = "free"
    budget: Literal["admm", "penalty"] = "admm"
    penalty: float = Field(default=0.1, ge=0)
    ratios: PricedSettings = PricedSettings()
    lr: float = Field(default=0.1, gt=0)
    curvature: float = Field(default=0.5, ge=0)
    firmness: float = Field(default=2.0, ge=0)
    temperature_first: float = Field(default=1.0, gt=0)
    temperature_last: float = Field(default=0.1, gt=0)
    settle_from: float = Field(default=0.7, ge=0, le=1)

    @field_validator("fractions")
    @classmethod
    def _rising(cls, fractions: tuple[float, ...]) -> tuple[float, ...]:
        rising = all(a < b for a, b in pairwise((0.0, *fractions)))
        if len(fractions) < 2 or fractions[-1] != 1 or not rising:
            raise ValueError("wanted two or more ascending fractions in (0, 1], the last of them 1")
        return fractions

    @property
    def follows_budget(self) -> bool:
        """Under "admm"."""
        return self.budget == "admm"

    def scheme(self, problem: Problem) -> "ChoiceScheme":
        """One choice per group."""
        return ChoiceScheme(problem, self)


class ChoiceScheme(Scheme):
    """Weights train under the aggregated mask; the choice moves by `Choices`.

    First order, as in DARTS. The channels are ranked again at every update. Nothing is sampled.
    """

    def __init__(self, problem: Problem, method: DCSS) -> None:
        super().__init__(problem)
        self.method, self.held_out = method, method.estimator == "held_out"
        self.candidates = candidates_of(problem.cost, problem.budget, method.fractions)
        ratio = problem.budget.ratio
        self.choices = make_choices(problem.form, self.candidates, ratio, method)
        self.offsets = problem.graph.offsets.to(problem.device)
        self.groups = segment_ids(self.offsets)
        self.counts_here = self.candidates.counts.to(problem.device)
        self.ranks = torch.zeros_like(self.groups)
        self.drawn: tuple[Tensor, Tensor] | None = None  # pi, and the mask as a function of it
        self.total, self.taken = torch.zeros_like(self.candidates.ratios), 0  # since the update
        self.inexactness = 0.0  # of the last mask that moved the choice

    @property
    def keep_ratios(self) -> Tensor:
        """Expected keep ratios."""
        return self.choices.ratios.keep_ratios

    def mixture(self, step: int) -> tuple[Tensor, Tensor]:
        """The current choice pi, (K, J), which requires a gradient, and its mask (n,)."""
        if self.problem.due(step):
            self.ranks = places(self.importance(), self.offsets)
        with torch.enable_grad():
            pi = self.choices.pi.to(self.problem.device, torch.float32).requires_grad_()
            return pi, staircase(pi, self.counts_here, self.ranks, self.groups)

    def mask(self, step: int) -> Tensor:
        """The aggregated mask of the current choice."""
        pi, mask = self.mixture(step)
        self.drawn = None if self.held_out else (pi, mask)
        return mask.detach()

    def step(self, step: int, gradient: Tensor, lr: float) -> Figures | None:
        """Accumulate the free gradient, and move the choice when an update is due."""
        if self.drawn is None:
            return None
        pi, mask = self.drawn
        self.total += self._gain(pi, mask, gradient).cpu()
        self.taken, self.drawn = self.taken + 1, None
        if not self.problem.due(step + 1):
            return None
        mean = self.total / self.taken
        self.total, self.taken = torch.zeros_like(self.total), 0
        return self.update(step + 1, mean)

    def held_out_step(
        self, step: int, weights: MaskedWeights, loss: Callable[[], Tensor]
    ) -> Figures:
        """Move the choice by the loss of a held-out batch under its mask."""
        pi, mask = self.mixture(step)
        slopes, value = held_out_slopes(weights, mask, loss)
        gain = self._gain(pi, mask, slopes)
        average([gain, value])
        return {"loss": float(value), **self.update(step, gain.cpu())}

    def _gain(self, pi: Tensor, mask: Tensor, gradient: Tensor) -> Tensor:
        """dL/dpi, (K, J), from dL/dmask, (n,)."""
        now = mask.detach()
        self.inexactness = float((now * (1 - now)).sum())
        return torch.autograd.grad(mask, pi, gradient.to(mask))[0].double()

    def update(self, done: int, gain: Tensor) -> Figures:
        """Move the logits once, after `done` weight steps."""
        clock, wanted = self.problem.clock(done), self.problem.budget_at(done)
        first, last = self.method.temperature_first, self.method.temperature_last
        temperature, scale = sharpness_at(*clock, first=first, last=last), step_scale_at(*clock)
        settled = self.settled_at(clock[0] / clock[1])
        residuals = self.choices.step(
            gain, wanted, temperature=temperature, step_scale=scale, settled=settled
        )
        return {
            "temperature": temperature,
            "inexactness": self.inexactness,
            "price": residuals.price,
            "price_spread": residuals.price_spread,
        }

    def settled_at(self, progress: float) -> int:
        """How many groups stand on a candidate at this share of the search; evenly, to K - 1."""
        start, progress = self.method.settle_from, min(progress, 1.0)
        part = (progress - start) / (1 - start) if progress > start else 0.0
        return round(part * (len(self.counts_here) - 1))

    def chosen(self) -> Tensor:
        """The most probable candidate of every group, int64, shape (K,); the smallest of equals."""
        best = self.choices.pi.argmax(1, keepdim=True)
        return self.candidates.counts.gather(1, best)[:, 0]

    def counts(self, budget: Budget) -> Tensor:
        """The most probable candidates; under "admm" repaired to the budget by `round_to_channels`.

        Under "penalty" they stay as they are, and the budget may be missed.
        """
        chosen, cost = self.chosen(), self.problem.cost
        if self.method.budget == "penalty":
            return chosen
        return round_to_channels(chosen.double() / cost.sizes, cost, budget)

    def notes(self) -> dict[str, Any]:
        """The choice, how decided it was, and how many channels the repair moved."""
        chosen, cost = self.chosen(), self.problem.cost
        moved = self.counts(self.problem.budget) - chosen
        return {
            "dcss_budget": self.method.budget,
            "dcss_chosen": " ".join(map(str, chosen.tolist())),
            "dcss_chosen_cost_ratio": cost.at(chosen) / cost.dense,
            "dcss_channels_moved": int(moved.abs().sum()),
            "dcss_entropy_nats": float(torch.special.entr(self.choices.pi).sum(1).mean()),
        }

    def state_dict(self) -> dict[str, Any]:
        """The choice, the ranking of the channels, and the gradients since the last update."""
        own = {"ranks": self.ranks.clone(), "total": self.total.clone(), "taken": self.taken}
        return {"choices": self.choices.state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self.choices.load_state_dict(state["choices"])
        self.ranks = state["ranks"].to(self.groups, copy=True)
        self.total, self.taken = state["total"].clone(), int(state["taken"])
