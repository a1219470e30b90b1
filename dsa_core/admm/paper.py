"""The `paper` optimiser: the ADMM-style updates of the DSA paper as stated, in logit coordinates."""

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from dsa_core.admm.base import KeepRatioOptimizer, Residuals, free_groups, price_summary
from dsa_core.admm.surface import CostForm, check_budget


class PaperSettings(BaseModel):
    """Settings of `Paper`: first those the paper states, then those it leaves open.

    Attributes:
        rho1: weight of the budget's penalty, and step of u1.
        rho2: weight of the consensus penalty, and step of u2.
        loss_scale: factor of the validation loss.
        z_steps: gradient steps on z in each update.
        z_lr: their step length.
        only_shrink: project Theta's step so that no keep ratio grows.
        stop_at_budget: once F(alpha) <= B, change nothing (the paper's loop runs "while F(A) > B").
        clip_norm: open, decided here: the scaled loss gradient is shortened to this Euclidean norm; None for never.
        theta_lr: open, decided here: step of plain gradient descent on Theta.
        max_ratio: open, decided here: logit(1) is infinite, so ratios start at and stay below this.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rho1: float = Field(default=0.01, gt=0.0)
    rho2: float = Field(default=0.01, gt=0.0)
    loss_scale: float = Field(default=1e5, gt=0.0)
    z_steps: int = Field(default=50, ge=1)
    z_lr: float = Field(default=1e-3, gt=0.0)
    only_shrink: bool = True
    stop_at_budget: bool = True
    clip_norm: float | None = Field(default=1.0, gt=0.0)
    theta_lr: float = Field(default=0.1, gt=0.0)
    max_ratio: float = Field(default=0.99, gt=0.5, lt=1.0)


class Paper(KeepRatioOptimizer):
    def __init__(
        self, cost: CostForm, *, floors: Tensor, start: Tensor, settings: PaperSettings
    ) -> None:
        self.high = torch.full_like(floors, settings.max_ratio).logit()
        self.low = floors.logit().minimum(self.high)
        theta = start.logit().clamp(self.low, self.high)
        super().__init__(
            cost,
            floors,
            {
                "theta": theta,
                "z": theta.clone(),
                "budget_dual": theta.new_zeros(()),
                "consensus_dual": torch.zeros_like(theta),
            },
        )
        self.settings = settings

    @property
    def keep_ratios(self) -> Tensor:
        """sigmoid(Theta), shape (K,), float64; a floor above `max_ratio` is met exactly."""
        return self._state["theta"].sigmoid().maximum(self.floors)

    def step(self, gradient: Tensor, budget: float, *, step_scale: float = 1.0) -> Residuals:
        """Make one update; see `KeepRatioOptimizer.step`. `step_scale` multiplies theta_lr."""
        gradient = self._checked(gradient, step_scale)
        check_budget(self.cost, budget, self.floors)
        alpha, old_z = self.keep_ratios, self._state["z"]
        free = free_groups(self._state["theta"], self.low, self.high)
        price, spread = price_summary(gradient, self.cost, alpha, free)
        if not (self.settings.stop_at_budget and float(self.cost(alpha)) <= budget):
            theta = self._theta_step(gradient * alpha * (1 - alpha), step_scale)
            z, budget_dual = self._z_loop(theta, budget)
            dual = self._state["consensus_dual"] + self.settings.rho2 * (theta - z)
            self._state = {
                "theta": theta,
                "z": z,
                "budget_dual": budget_dual,
                "consensus_dual": dual,
            }
        theta, z = self._state["theta"], self._state["z"]
        return Residuals(
            primal=float((theta - z).norm()),
            dual=self.settings.rho2 * float((z - old_z).norm()),
            budget=float(self.cost(z.sigmoid().maximum(self.floors))) - budget,
            price=float(price),
            price_spread=float(spread),
            clipped=int(((theta <= self.low) | (theta >= self.high)).sum()),
        )

    def _theta_step(self, slope: Tensor, step_scale: float) -> Tensor:
        """Take one gradient step on Theta; slope = dL/dTheta, (K,)."""
        s, state = self.settings, self._state
        slope = s.loss_scale * slope
        if s.clip_norm is not None:
            slope = slope * (s.clip_norm / slope.norm().clamp_min(s.clip_norm))
        slope = slope + state["consensus_dual"] + s.rho2 * (state["theta"] - state["z"])
        if s.only_shrink:
            slope = slope.clamp_min(0.0)
        return (state["theta"] - s.theta_lr * step_scale * slope).clamp(self.low, self.high)

    def _z_loop(self, theta: Tensor, budget: float) -> tuple[Tensor, Tensor]:
        """Return z, (K,), and u1, (), after the inner loop on the budget's and the consensus terms."""
        s, z = self.settings, self._state["z"]
        u1, u2 = self._state["budget_dual"], self._state["consensus_dual"]
        for _ in range(s.z_steps):
            alpha = z.sigmoid()
            excess = (self.cost(alpha) - budget).clamp_min(0.0)
            push = (u1 + s.rho1 * excess) * (excess > 0)
            slope = push * self.cost.gradient(alpha) * alpha * (1 - alpha)
            z = (z - s.z_lr * (slope - u2 - s.rho2 * (theta - z))).clamp(self.low, self.high)
            u1 = u1 + s.rho1 * excess
        return z, u1
