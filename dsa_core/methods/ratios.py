"""DSA's scheme: weights under sampled masks, keep ratios by an optimiser under a budget."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dsa_core.allocation import MET, Update
from dsa_core.budget import KeepRatioOptimizer, Residuals, step_scale_at
from dsa_core.kernels import inexactness
from dsa_core.masks import keep_probs, masked_parameters, sample_mask
from dsa_core.methods.gradient import ratio_gradient
from dsa_core.methods.problem import Problem
from dsa_core.methods.scheme import Batches, Scheme
from dsa_core.training import Precision
from dsa_core.training.seeds import step_seed

NO_STEP = Residuals(primal=0.0, dual=0.0, budget=0.0, price=0.0, price_spread=0.0, clipped=0)


class KeepRatioScheme(Scheme):
    """Weights train under masks drawn from the keep probabilities; ratios move by an optimiser.

    First order, as in DARTS: the keep ratios' gradient is that of the validation loss at the
    present weights.

    Args:
        problem: what is searched.
        optimizer: moves the keep ratios.
    """

    def __init__(self, problem: Problem, optimizer: KeepRatioOptimizer) -> None:
        super().__init__(problem)
        self.optimizer = optimizer
        self.offsets = problem.graph.offsets.to(problem.device)

    @property
    def keep_ratios(self) -> Tensor:
        """Those of the optimiser."""
        return self.optimizer.keep_ratios

    def update(self, step: int, batches: Batches, precision: Precision) -> Update:
        """Move the keep ratios once."""
        problem = self.problem
        ratio, wanted = problem.budget.ratio, problem.budget_at(step)
        alpha, sharpness = self.keep_ratios, problem.sharpness(step)
        b = self.importance()
        gradient, loss = torch.zeros_like(alpha), torch.tensor(torch.nan)
        residuals = NO_STEP
        if not (problem.config.fix_when_met and float(problem.form(alpha)) <= ratio * (1 + MET)):
            if self.optimizer.uses_gradient:
                gradient, loss = self._gradient(alpha, b, step, next(batches), precision)
                self.check(f"the validation loss before step {step}", loss)
                self.check(f"the keep ratios' gradient before step {step}", gradient)
            scale = step_scale_at(*problem.clock(step))
            residuals = self.optimizer.step(gradient, wanted, step_scale=scale)
        alpha = self.keep_ratios
        p = keep_probs(b, alpha, problem.graph, sharpness=sharpness)
        return Update(
            step=step,
            budget=wanted,
            cost=float(problem.form(alpha)),
            sharpness=sharpness,
            inexactness=float(inexactness(p, self.offsets).sum()),
            loss=float(loss),
            price=residuals.price,
            price_spread=residuals.price_spread,
            primal=residuals.primal,
            dual=residuals.dual,
            keep_ratios=tuple(alpha.tolist()),
        )

    def _gradient(
        self,
        alpha: Tensor,
        b: Tensor,
        step: int,
        batch: tuple[Tensor, Tensor],
        precision: Precision,
    ) -> tuple[Tensor, Tensor]:
        problem = self.problem
        seed = step_seed(problem.seed, "ratio mask", step)
        return ratio_gradient(
            problem.model,
            problem.graph,
            alpha,
            b,
            (batch[0].to(problem.device), batch[1].to(problem.device)),
            task=problem.data.task,
            sharpness=problem.sharpness(step),
            estimator=problem.config.estimator,
            precision=precision,
            generator=torch.Generator(problem.device).manual_seed(seed),
        )

    def weights(self, step: int, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parameters under a sampled mask."""
        return masked_parameters(parameters, self.problem.graph, self._mask(step))

    @torch.no_grad()
    def _mask(self, step: int) -> Tensor:
        problem, floor = self.problem, self.problem.config.prob_floor
        b, sharpness = self.importance(), problem.sharpness(step)
        p = keep_probs(b, self.keep_ratios, problem.graph, sharpness=sharpness, floor=floor)
        seed = step_seed(problem.seed, "mask", step)
        return sample_mask(p, torch.Generator(problem.device).manual_seed(seed))

    def state_dict(self) -> dict[str, Any]:
        """That of the optimiser."""
        return dict(self.optimizer.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Into the optimiser."""
        self.optimizer.load_state_dict(state)
