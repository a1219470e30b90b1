"""DSA's scheme: masks drawn from keep probabilities, keep ratios by the gradient of the masks."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from dsa_core.allocation import MET
from dsa_core.budget import (
    KeepRatioOptimizer,
    PaperSettings,
    PricedSettings,
    Residuals,
    make_optimizer,
    sharpness_at,
    step_scale_at,
)
from dsa_core.masked_weights import MaskedWeights
from dsa_core.masks import Estimator, estimator_mask, keep_probs
from dsa_core.scheme import Figures, Method, Problem, Scheme, held_out_slopes
from dsa_core.training.processes import average
from dsa_core.training.seeds import step_seed


class Masked(Method):
    """A method whose masks are drawn from DSA's keep probabilities.

    Attributes:
        sharpness_first, sharpness_last: beta2 at the ends of the search, geometric in between. The
            masks of the last steps should be nearly those that are cut: 80 serves better than 20
            (notebook 12).
        prob_floor: smallest keep probability while weights train (0.01 in the authors' released
            code).
    """

    several_resources: ClassVar[bool] = True

    sharpness_first: float = Field(default=5.0, gt=0)
    sharpness_last: float = Field(default=80.0, gt=0)
    prob_floor: float = Field(default=0.0, ge=0, lt=1)


class DSA(Masked):
    """Differentiable Sparsity Allocation: keep ratios by the gradient of the loss.

    The weights train under masks drawn from the keep probabilities. The same backward passes give
    the gradient of the mask, which moves the keep ratios (`estimator="free"`) while the budget
    falls.

    Deviations from the paper in the default settings: masks act at the consumers of a channel, not
    after BatchNorm (`masks`); the gradient is that of the training loss, where the paper holds a
    tenth of the data out; the ADMM steps are in log ratios and meet the budget from both sides
    (`budget.Priced`); the budget falls over `anneal_fraction` of the search. `optimizer="paper"`
    and `estimator="straight_through"` use the paper's equations.

    Attributes:
        optimizer: of the keep ratios, "priced" or "paper" (see `budget`).
        settings: of that optimizer; None for its defaults.
        estimator: of the gradient of the masks. "free": straight-through, from the backward passes
            of the training itself. The others (`masks.estimator_mask`) need a held-out batch before
            each update, see `Pruner.held_out_step`.
        fix_when_met: change no keep ratio once the budget is met (the paper's flow).

    Source: Ning et al., DSA, ECCV 2020 (arXiv:2004.02164).
    """

    label: ClassVar[str] = "dsa"

    optimizer: Literal["priced", "paper"] = "priced"
    settings: PricedSettings | PaperSettings | None = None
    estimator: Literal["free"] | Estimator = "free"
    fix_when_met: bool = False

    def scheme(self, problem: Problem) -> "KeepRatioScheme":
        """Keep ratios that follow a gradient."""
        optimizer = make_optimizer(
            self.optimizer, problem.forms, floors=problem.floors, settings=self.settings
        )
        estimator = None if self.estimator == "free" else self.estimator
        return KeepRatioScheme(
            problem, self, optimizer, held_out=estimator, fix_when_met=self.fix_when_met
        )


class KeepRatioScheme(Scheme):
    """DSA: masks from keep probabilities, keep ratios by an optimizer under a budget.

        p = sigmoid(beta2 (log b - log beta1)),  sum p = alpha C in each group       `keep_probs`
        m ~ Bernoulli(p);  the weights train under m;  g = dL/dm is free             `MaskedWeights`
        dL/dalpha = C sum_i g_i s_i / sum_j s_j,  s = p (1 - p)    implicit function theorem
        alpha <- one step against it, landing on the budget           `budget.Priced` (priced.py)

    First order, as in DARTS: the gradient is that of the loss at the present weights.

    Args:
        problem: what is searched.
        masks: how masks are drawn.
        optimizer: moves the keep ratios; gets zeros if it uses no gradient.
        held_out: estimator of the gradient on held-out batches; None: the free gradient.
        fix_when_met: change no keep ratio once the budget is met.
    """

    def __init__(
        self,
        problem: Problem,
        masks: Masked,
        optimizer: KeepRatioOptimizer,
        *,
        held_out: Estimator | None = None,
        fix_when_met: bool = False,
    ) -> None:
        super().__init__(problem)
        self.masks, self.optimizer, self.fix_when_met = masks, optimizer, fix_when_met
        self.estimator = held_out
        self.held_out = held_out is not None
        self.free = optimizer.uses_gradient and not self.held_out
        self.drawn: tuple[Tensor, Tensor] | None = None  # alpha, and the mask as a function of it
        self.p = torch.ones(problem.graph.n_channels)  # keep probabilities of the last mask
        self.total, self.taken = torch.zeros_like(problem.floors), 0  # gradients since the update

    @property
    def keep_ratios(self) -> Tensor:
        """The keep ratios of the optimizer."""
        return self.optimizer.keep_ratios

    def sharpness(self, step: int) -> float:
        """Give beta2 of a weight step."""
        first, last = self.masks.sharpness_first, self.masks.sharpness_last
        return sharpness_at(*self.problem.clock(step), first=first, last=last)

    def probs(self, step: int, *, floor: float = 0.0) -> tuple[Tensor, Tensor]:
        """Keep ratios that require a gradient, and their keep probabilities."""
        alpha = self.keep_ratios.requires_grad_()
        sharpness, b = self.sharpness(step), self.importance()
        p = keep_probs(b, alpha, self.problem.graph, sharpness=sharpness, floor=floor)
        self.p = p.detach()
        return alpha, p

    def mask(self, step: int) -> Tensor:
        """Draw the channels kept in this step."""
        with torch.enable_grad():
            alpha, p = self.probs(step, floor=self.masks.prob_floor)
            mask = estimator_mask(p, "straight_through", generator=self._generator("mask", step))
        self.drawn = (alpha, mask) if self.free else None
        return mask.detach()

    def step(self, step: int, gradient: Tensor, lr: float) -> Figures | None:
        """Accumulate the free gradient, and move the keep ratios when an update is due."""
        if self.drawn is not None:
            alpha, mask = self.drawn
            self.total += torch.autograd.grad(mask, alpha, gradient.to(mask))[0]
            self.taken, self.drawn = self.taken + 1, None
        if self.held_out or not self.problem.due(step + 1):
            return None
        mean = self.total / max(1, self.taken)
        self.total, self.taken = torch.zeros_like(self.total), 0
        return self.update(step + 1, mean)

    def held_out_step(
        self, step: int, weights: MaskedWeights, loss: Callable[[], Tensor]
    ) -> Figures:
        """Move the keep ratios by the loss of a held-out batch under the estimator's mask."""
        if self._met():
            return self.update(step, torch.zeros_like(self.total))
        assert self.estimator is not None
        with torch.enable_grad():
            alpha, p = self.probs(step)
            mask = estimator_mask(p, self.estimator, generator=self._generator("ratio mask", step))
            gradient, value = held_out_slopes(weights, mask, loss)
            slope = torch.autograd.grad(mask, alpha, gradient.to(mask))[0]
        average([slope, value])
        return {"loss": float(value), **self.update(step, slope)}

    def update(self, done: int, gradient: Tensor) -> Figures:
        """Update the keep ratios after `done` weight steps."""
        clock, residuals = self.problem.clock(done), Residuals()
        if not self._met():
            wanted, scale = self.problem.budgets_at(done), step_scale_at(*clock)
            residuals = self.optimizer.step(gradient, wanted, step_scale=scale)
        return {
            "sharpness": self.sharpness(done),
            "inexactness": float((self.p * (1 - self.p)).sum()),
            "price": residuals.price,
            "price_spread": residuals.price_spread,
        }

    def _met(self) -> bool:
        """Whether the keep ratios no longer change."""
        return self.fix_when_met and self.problem.met(self.keep_ratios, MET)

    def _generator(self, label: str, step: int) -> torch.Generator:
        seed = step_seed(self.problem.seed, label, step)
        return torch.Generator(self.problem.device).manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """That of the optimizer, and the gradients since its last step."""
        own = {"total": self.total.clone(), "taken": self.taken}
        return {"optimizer": dict(self.optimizer.state_dict()), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.total, self.taken = state["total"].clone(), int(state["taken"])
