"""What both optimizers of keep ratios share: the interface, the residuals, saving and loading."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsa_core.budget.form import QuadraticForm
from dsa_core.budget.surface import Costs, as_forms, metric, prices


@dataclass(frozen=True)
class Residuals:
    """How far a step was from an optimum on the budget; of several, on the one that binds.

    Attributes:
        price: mean price of the unclipped groups, weighted by w, where the gradient was taken and
            by the form that bound there; in units of the loss.
        price_spread: w-weighted standard deviation of those prices; 0 at an optimum, 0 if fewer
            than two are unclipped.
    """

    price: float = 0.0
    price_spread: float = 0.0


class KeepRatioOptimizer(ABC):
    """Moves K keep ratios in [floor, 1] against a stochastic gradient, under a budget F = B.

    Of several budgets F_r <= B_r the tightest is met; `binding` says which that is.
    """

    uses_gradient = True  # False: `step` looks at the budget only, and no gradient need be computed

    def __init__(self, costs: Costs, floors: Tensor, state: dict[str, Tensor]) -> None:
        self.costs = as_forms(costs)
        self.floors = floors
        self._state = state | self._bound_by(0)

    @property
    def binding(self) -> int:
        """Index of the form whose budget was the tightest in the last step; at the start 0."""
        return int(self._state["binding"]) if len(self.costs) > 1 else 0

    @property
    def cost(self) -> QuadraticForm:
        """The form that binds."""
        return self.costs[self.binding]

    def _bound_by(self, binding: int) -> dict[str, Tensor]:
        """What the state says of the form that binds; nothing where there is one only."""
        return {"binding": torch.tensor(binding)} if len(self.costs) > 1 else {}

    @property
    @abstractmethod
    def keep_ratios(self) -> Tensor:
        """The ratios at which the next gradient is wanted, shape (K,), float64, a copy."""

    @abstractmethod
    def step(
        self, gradient: Tensor, budgets: float | Sequence[float], *, step_scale: float = 1.0
    ) -> Residuals:
        """Make one update.

        Args:
            gradient: dL/dalpha at `keep_ratios`, shape (K,), finite; one noisy sample will do.
            budgets: B of this step, in [F(floors), 1]; of several forms one each.
            step_scale: factor of the step length, >= 0; let it fall to 0.

        Raises:
            ValueError: the gradient has the wrong shape or is not finite, step_scale is negative or
                not finite, or there are not as many budgets as forms.
            BudgetError: a budget cannot be reached.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """Return a copy of all that the next step depends on, besides cost, floors, settings."""
        return {name: value.clone() for name, value in self._state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a saved state; the next steps are those of the saved optimizer, bit for bit.

        Raises:
            ValueError: a name, a shape or a dtype is not that of this optimizer.
        """
        if state.keys() != self._state.keys():
            raise ValueError(
                f"state: wanted the entries {sorted(self._state)}, got {sorted(state)};"
                " was it saved by the other optimizer?"
            )
        for name, own in self._state.items():
            if state[name].shape != own.shape or state[name].dtype != own.dtype:
                raise ValueError(
                    f"state[{name!r}]: wanted {own.dtype} of shape {tuple(own.shape)}, got"
                    f" {state[name].dtype} of shape {tuple(state[name].shape)}; same groups?"
                )
        self._state = {name: state[name].to(own, copy=True) for name, own in self._state.items()}

    def _checked(self, gradient: Tensor, step_scale: float) -> Tensor:
        """Return the gradient as float64, or raise ValueError."""
        if gradient.shape != self.floors.shape:
            raise ValueError(
                f"gradient: wanted one value a group, shape {tuple(self.floors.shape)},"
                f" got {tuple(gradient.shape)}"
            )
        gradient = gradient.detach().to(self.floors)
        if not bool(gradient.isfinite().all()):
            bad = (~gradient.isfinite()).nonzero().flatten().tolist()
            raise ValueError(
                f"gradient: not finite in groups {bad}; check the loss, or lower the weights'"
                " learning rate"
            )
        if not 0.0 <= step_scale < math.inf:
            raise ValueError(f"step_scale: wanted a finite number >= 0, got {step_scale}")
        return gradient


def free_groups(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return which groups lie strictly between their bounds, (K,) bool; all if none does."""
    free = (values > low) & (values < high)
    return free if bool(free.any()) else torch.ones_like(free)


def price_summary(
    gradient: Tensor, cost: QuadraticForm, alpha: Tensor, free: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the w-weighted mean and standard deviation of the free groups' prices, both ()."""
    w = metric(cost, alpha).clamp_min(1e-300) * free
    r = prices(gradient, cost, alpha)
    mean = (w * r).sum() / w.sum()
    return mean, ((w * (r - mean).square()).sum() / w.sum()).sqrt()
