"""Keep ratios that follow the budget and listen to no loss: what a search is held against."""

from torch import Tensor

from dsa_core.budget import KeepRatioOptimizer, QuadraticForm, Residuals, shift_to_budget
from dsa_core.budget.surface import to_ratios


class FixedDirection(KeepRatioOptimizer):
    """log alpha_k = v_k - c, held in [log floor_k, 0], with c such that F(alpha) = B.

    Args:
        cost: of the network.
        floors: least keep ratios, shape (K,).
        direction: v, shape (K,); zeros give the uniform allocation.
    """

    uses_gradient = False

    def __init__(self, cost: QuadraticForm, floors: Tensor, direction: Tensor) -> None:
        super().__init__(cost, floors, {"alpha": floors.new_ones(len(floors))})
        self.direction = direction

    @property
    def keep_ratios(self) -> Tensor:
        """Of the last step, shape (K,)."""
        return self._state["alpha"].clone()

    def step(self, gradient: Tensor, budget: float, *, step_scale: float = 1.0) -> Residuals:
        """Go to the budget."""
        shifted, _ = shift_to_budget(self.direction, self.cost, budget, self.floors)
        alpha = to_ratios(shifted, self.floors)
        self._state = {"alpha": alpha}
        off = float(self.cost(alpha)) - budget
        return Residuals(primal=0.0, dual=0.0, budget=off, price=0.0, price_spread=0.0, clipped=0)
