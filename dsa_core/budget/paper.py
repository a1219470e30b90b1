"""The `paper` optimizer: the ADMM-style updates of the DSA paper, in logit coordinates."""

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from dsa_core.budget.base import KeepRatioOptimizer, Residuals, free_groups, price_summary
from dsa_core.budget.form import QuadraticForm
from dsa_core.budget.surface import Costs, as_forms, check_budget, per_form

ADAM = (0.9, 0.999, 1e-8)  # torch's defaults: memory of the mean, memory of the square, epsilon


class PaperSettings(BaseModel):
    """Settings of `Paper`: first those the paper states, then those it leaves open.

    Attributes:
        rho1: weight of the budget's penalty, and step of u1.
        rho2: weight of the consensus penalty, and step of u2.
        loss_scale: factor of the validation loss.
        z_steps: steps on z in each update.
        z_lr: their step length.
        only_shrink: project Theta's step so that no keep ratio grows.
        stop_at_budget: once F(alpha) <= B, change nothing (the paper's loop: "while F(A) > B").
        clip_norm: open. The scaled loss gradient is shortened to this norm; None for never.
        theta_lr: open. Step of plain gradient descent on Theta.
        max_ratio: open. alpha_0 of a dense start and the highest ratio at any time, since
            logit(1) is infinite.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rho1: float = Field(default=0.01, gt=0.0)
    rho2: float = Field(default=0.01, gt=0.0)
    loss_scale: float = Field(default=1e5, gt=0.0)
    z_steps: int = Field(default=50, ge=1)
    z_lr: float = Field(default=1e-3, gt=0.0)
    only_shrink: bool = True
    stop_at_budget: bool = True
    clip_norm: float | None = Field(default=0.3, gt=0.0)
    theta_lr: float = Field(default=1.0, gt=0.0)
    max_ratio: float = Field(default=0.95, gt=0.5, lt=1.0)


class Paper(KeepRatioOptimizer):
    """The ADMM-style updates of the paper on Theta = logit(alpha), with z, u1 and u2.

        Theta <- Theta - theta_lr P[S dL/dTheta + u2 + rho2 (Theta - z)]      S = loss_scale
        z     <- z_steps steps on  u1 [F(z) - B]_+ + rho1/2 [F(z) - B]_+^2
                                   + u2'(Theta - z) + rho2/2 |Theta - z|^2,
                 each followed by u1 <- u1 + rho1 [F(z) - B]_+
        u2    <- u2 + rho2 (Theta - z)

    Of several budgets each has a u1 of its own, and z's slope is that of the sum of the penalties.

    *Signs.* The consensus term is u2'(Theta - z): it enters Theta's slope as +u2 and z's as -u2; u2
    rises while Theta > z and so drags Theta down to z. F(z) stands for F(sigmoid z); P keeps the
    positive part if `only_shrink`, so that Theta only falls. At rest u2 = -S dL/dTheta = u1
    dF/dTheta: equal prices. u1 never falls, and nothing pushes back from below the budget.

    *Open in the paper, decided here.*
    - F is in units of the dense cost, F(1) = 1.
    - u1 and u2 start at 0, z at Theta, and alpha at `max_ratio`: near 1 the logit is so flat that
      the groups with the largest share of the cost leave first and carry the whole budget. A group
      that should stay whole stays there.
    - In these units S = 1e5 makes the loss force 10^3 to 10^4, while u2 grows by rho2 |Theta - z|,
      about 0.05, an update: it would need 10^5 updates to be heard. So S dL/dTheta is shortened to
      the norm `clip_norm`, of the order that u2 reaches in tens of updates, which leaves the
      constrained optimum where it is.
    - z moves by Adam, restarted in each update, so that `z_lr` is a length in logits; plain steps
      let the costliest groups fall to their floors first.
    - Theta moves by plain gradient descent; `theta_lr` was chosen by trial on convex problems.

    *Known limits.* The budget is an inequality: noise together with `only_shrink` and without
    `stop_at_budget` drives ratios far below it. With `stop_at_budget` the answer is the point where
    Theta first crosses the budget, on average near the optimum but not at it.

    Source: Ning et al., DSA, ECCV 2020 (arXiv:2004.02164), section on ADMM-style optimisation.
    """

    def __init__(
        self, costs: Costs, *, floors: Tensor, start: Tensor, settings: PaperSettings
    ) -> None:
        self.high = torch.full_like(floors, settings.max_ratio).logit()
        self.low = floors.logit().minimum(self.high)
        theta = start.logit().clamp(self.low, self.high)
        n = len(as_forms(costs))
        super().__init__(
            costs,
            floors,
            {
                "theta": theta,
                "z": theta.clone(),
                "budget_dual": theta.new_zeros((n,) if n > 1 else ()),
                "consensus_dual": torch.zeros_like(theta),
            },
        )
        self.settings = settings

    @property
    def keep_ratios(self) -> Tensor:
        """sigmoid(Theta), shape (K,), float64; a floor above `max_ratio` is met exactly."""
        return self._state["theta"].sigmoid().maximum(self.floors)

    def step(
        self, gradient: Tensor, budgets: float | Sequence[float], *, step_scale: float = 1.0
    ) -> Residuals:
        """Make one update; see `KeepRatioOptimizer.step`. `step_scale` multiplies theta_lr."""
        gradient = self._checked(gradient, step_scale)
        wanted = per_form(self.costs, budgets)
        for cost, budget in wanted:
            check_budget(cost, budget, self.floors)
        alpha = self.keep_ratios
        free = free_groups(self._state["theta"], self.low, self.high)
        price, spread = price_summary(gradient, self.cost, alpha, free)
        met = all(float(cost(alpha)) <= budget for cost, budget in wanted)
        if not (self.settings.stop_at_budget and met):
            theta = self._theta_step(gradient * alpha * (1 - alpha), step_scale)
            z, budget_dual = self._z_loop(theta, wanted)
            dual = self._state["consensus_dual"] + self.settings.rho2 * (theta - z)
            self._state = {
                "theta": theta,
                "z": z,
                "budget_dual": budget_dual,
                "consensus_dual": dual,
                **self._bound_by(tightest(wanted, z.sigmoid().maximum(self.floors))),
            }
        return Residuals(float(price), float(spread))

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

    def _z_loop(
        self, theta: Tensor, wanted: Sequence[tuple[QuadraticForm, float]]
    ) -> tuple[Tensor, Tensor]:
        """Return z, (K,), and u1, in its shape, after the loop on budget and consensus terms."""
        s, z = self.settings, self._state["z"]
        u1, u2 = self._state["budget_dual"].reshape(-1), self._state["consensus_dual"]
        mean, square = torch.zeros_like(z), torch.zeros_like(z)
        for i in range(1, s.z_steps + 1):
            share = z.sigmoid()
            alpha = share.maximum(self.floors)  # as in `keep_ratios`: a floor may exceed max_ratio
            excess = torch.stack([cost(alpha) - budget for cost, budget in wanted]).clamp_min(0.0)
            push = (u1 + s.rho1 * excess) * (excess > 0)
            pushed = [p * c.gradient(alpha) for p, (c, _) in zip(push, wanted, strict=True)]
            slope = sum(pushed, torch.zeros_like(z)) * share * (1 - share) * (share >= self.floors)
            slope = slope - u2 - s.rho2 * (theta - z)
            mean = torch.lerp(slope, mean, ADAM[0])
            square = torch.lerp(slope.square(), square, ADAM[1])
            rms = (square / (1 - ADAM[1] ** i)).sqrt() + ADAM[2]
            z = (z - s.z_lr * mean / (1 - ADAM[0] ** i) / rms).clamp(self.low, self.high)
            u1 = u1 + s.rho1 * excess
        return z, u1.reshape_as(self._state["budget_dual"])


def tightest(wanted: Sequence[tuple[QuadraticForm, float]], alpha: Tensor) -> int:
    """Return the index of the form with the highest cost against its budget."""
    return max(range(len(wanted)), key=lambda r: float(wanted[r][0](alpha)) / wanted[r][1])
