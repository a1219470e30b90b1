"""The default optimizer: a projected gradient step in log ratios.

It is linearised ADMM, whose dual cancels.
"""

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from dsa_core.budget.base import KeepRatioOptimizer, Residuals, free_groups, price_summary
from dsa_core.budget.surface import (
    SMALLEST_WEIGHT,
    Costs,
    metric,
    shift_to_budgets,
    to_ratios,
)


class PricedSettings(BaseModel):
    """Settings of `Priced`.

    Attributes:
        lr: step in log ratios, > 0; a group whose price stays on one side of the mean price moves
            by about this much a step. Noise alone moves log alpha by about
            lr sqrt(sum_t step_scale_t^2): 0.5 after 300 steps of a cosine at 0.05.
        averaging: memory of the mean price difference, in [0, 1).
        rms_averaging: memory of its root mean square, in [0, 1); no shorter than `averaging`'s.
        eps: price differences below eps times the price itself count as none (rounding, not
            signal).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lr: float = Field(default=0.05, gt=0.0)
    averaging: float = Field(default=0.97, ge=0.0, lt=1.0)
    rms_averaging: float = Field(default=0.99, ge=0.0, lt=1.0)
    eps: float = Field(default=1e-6, gt=0.0)


class Priced(KeepRatioOptimizer):
    """ADMM in log ratios, in the metric w = dlog F / dlog alpha.

        min L(exp v)   s.t.   F(exp z) = B,   log floor <= z <= 0,   v = z

    v is the primal variable (Theta in the paper). One step, with rho = 1/lr, the scaled dual u, and
    L replaced by its slope d at z (`_direction`):

        v <- argmin_v  <d, v> + rho/2 |v - z + u|^2  =  z - u - lr d
        z <- projection of v + u on the budget       =  clip(v + u - c)     (`shift_to_budget`)
        u <- u + v - z                               =  c where unclipped, else c + the part cut off

    *The dual cancels.* v + u = z_prev - lr d whatever u is, so that the three steps are one, a
    projected gradient step on the budget surface; u is kept as what it reports, a multiplier.

    *Bounds do not wind up.* For the same reason the new dual is what the last projection
    cut off, not a sum over the past: (u_k - c) / lr is the current multiplier of group k's bound,
    and the group leaves the bound in the first step in which its d_k, apart from the common shift,
    points inwards. The only memory is the moving average, about 1 / (1 - averaging) steps.

    *The slope.* e_k = r_k - mean of r, weighted by w, over the groups strictly between their
    bounds. Averaged over all groups instead, clipped groups, whose prices need not agree, would
    shift the mean away from the common price, and the others, each divided by its own scale, would
    settle at unequal prices. d_k = average of e_k / (root mean square of e_k), each group by its
    own scale: a common one would let one noisy group silence the others. It still descends: on the
    surface dL = sum_k w_k e_k dv_k = -lr sum_k w_k e_k^2 / rms_k over the free groups (there
    sum w e = 0 removes the shift), and it rests only where all e_k = 0: equal prices.

    `step_scale` multiplies d. With no loss signal d = 0: every step is a common shift and, while B
    moves one way only, the answer is the uniform allocation. Multiplying the loss by a constant
    changes nothing.

    *Several budgets.* The z-step lands on the tightest (`shift_to_budgets`); w, r and e are those
    of the form that was the tightest in the last z-step, at the start the first. If one form binds
    at the end, the result has equal prices in that form. Where two bind at the optimum, the steps
    alternate between their prices and settle near the edge where both budgets are spent, close to
    the optimum but not at it: on a convex problem of four groups 0.2 % above the lowest
    loss, where the uniform allocation is 5.4 % above it.

    Source: Ning et al., DSA (arXiv:2004.02164), ADMM-style optimisation; coordinates, metric and
    price are this project's own.
    """

    def __init__(
        self, costs: Costs, *, floors: Tensor, start: Tensor, settings: PricedSettings
    ) -> None:
        zeros = torch.zeros_like(floors)
        super().__init__(
            costs,
            floors,
            {
                "z": start.clamp(max=1.0).maximum(floors).log(),
                "dual": zeros.clone(),
                "mean": zeros.clone(),
                "square": zeros.clone(),
                "price_square": zeros.new_zeros(()),
                "steps": torch.zeros((), dtype=torch.int64),
            },
        )
        self.settings = settings

    @property
    def keep_ratios(self) -> Tensor:
        """exp z, shape (K,), float64: on the budget after the first step."""
        return to_ratios(self._state["z"], self.floors)

    def move_to(self, keep_ratios: Tensor) -> None:
        """Take the next step from these keep ratios, shape (K,), in [floor, 1]."""
        self._state["z"] = keep_ratios.log()

    def step(
        self, gradient: Tensor, budgets: float | Sequence[float], *, step_scale: float = 1.0
    ) -> Residuals:
        """Make one update; see `KeepRatioOptimizer.step`."""
        gradient = self._checked(gradient, step_scale)
        z, alpha = self._state["z"], self.keep_ratios
        price, spread = self._price(gradient, alpha)
        w = metric(self.cost, alpha)
        moments = self._averages((alpha * gradient - w * price), w, price)
        wish = z - self.settings.lr * step_scale * self._direction(moments)
        self._state = {**self._state, **moments, **self._land(wish, budgets)}
        return Residuals(float(price), float(spread))

    def _price(self, gradient: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """The price that groups are compared with, and how far theirs are from it; both ()."""
        free = free_groups(self._state["z"], self.floors.log(), torch.zeros_like(alpha))
        return price_summary(gradient, self.cost, alpha, free)

    def _land(self, wish: Tensor, budgets: float | Sequence[float]) -> dict[str, Tensor]:
        """Project v + u on the budget: z, the dual, and the form that binds."""
        z, _, binding = shift_to_budgets(wish, self.costs, budgets, self.floors)
        return {"z": z, "dual": wish - z, **self._bound_by(binding)}

    def _averages(self, weighted_excess: Tensor, w: Tensor, price: Tensor) -> dict[str, Tensor]:
        """Update the running moments with e = weighted_excess / w, (K,), and the mean price, ()."""
        excess = weighted_excess / w.clamp_min(SMALLEST_WEIGHT)
        a, b, old = self.settings.averaging, self.settings.rms_averaging, self._state
        return {
            "mean": a * old["mean"] + (1 - a) * excess,
            "square": b * old["square"] + (1 - b) * excess.square(),
            "price_square": b * old["price_square"] + (1 - b) * price.square(),
            "steps": old["steps"] + 1,
        }

    def _direction(self, moments: dict[str, Tensor]) -> Tensor:
        """Return d, (K,): bias-corrected mean over root mean square; 0 without a signal."""
        steps = int(moments["steps"])
        mean = moments["mean"] / (1 - self.settings.averaging**steps)
        correction = 1 - self.settings.rms_averaging**steps
        rms = (moments["square"] / correction).sqrt()
        scale = rms + self.settings.eps * (moments["price_square"] / correction).sqrt()
        return torch.where(scale > 0, mean / scale.clamp_min(1e-300), torch.zeros_like(mean))
