"""Baselines that ignore the loss: the same keep ratio for every group, or random ones."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from dsa_core.budget import Costs, KeepRatioOptimizer, Residuals, shift_to_budgets
from dsa_core.budget.surface import to_ratios
from dsa_core.dsa import KeepRatioScheme, Masked
from dsa_core.scheme import Problem
from dsa_core.training.seeds import generator

SMALLEST = 0.2  # smallest ratio drawn, as in AMC; on ResNet-20 the spread is about that of DSA


class FixedDirection(KeepRatioOptimizer):
    """log alpha_k = v_k - c, held in [log floor_k, 0], with c such that F(alpha) = B.

    The direction v, (K,), stays; zeros give the uniform allocation.
    """

    uses_gradient = False

    def __init__(self, costs: Costs, floors: Tensor, direction: Tensor) -> None:
        super().__init__(costs, floors, {"alpha": floors.new_ones(len(floors))})
        self.direction = direction

    @property
    def keep_ratios(self) -> Tensor:
        """Of the last step, shape (K,)."""
        return self._state["alpha"].clone()

    def step(
        self, gradient: Tensor, budgets: float | Sequence[float], *, step_scale: float = 1.0
    ) -> Residuals:
        """Move onto the budget; of several, the tightest."""
        shifted, _, r = shift_to_budgets(self.direction, self.costs, budgets, self.floors)
        alpha = to_ratios(shifted, self.floors)
        self._state = {"alpha": alpha, **self._bound_by(r)}
        return Residuals()


class Uniform(Masked):
    """One keep ratio for every group.

    The network trains under masks as in DSA's search, so the allocation is the only difference to
    DSA. The paper has no such row. With `steps=0` the dense network is cut at once.
    """

    learns: ClassVar[bool] = False
    label: ClassVar[str] = "uniform"

    def scheme(self, problem: Problem) -> KeepRatioScheme:
        """Keep ratios that follow the budget."""
        return fixed(problem, self, torch.zeros_like(problem.floors))


class Random(Masked):
    """A random keep ratio for every group, drawn from the seed.

    As `Uniform`. The spread over many seeds shows how much an allocation can gain or lose.
    """

    learns: ClassVar[bool] = False
    label: ClassVar[str] = "random"

    def scheme(self, problem: Problem) -> KeepRatioScheme:
        """Keep ratios that follow the budget."""
        return fixed(problem, self, random_direction(problem.floors, problem.seed))


def fixed(problem: Problem, masks: Masked, direction: Tensor) -> KeepRatioScheme:
    """DSA's masks with keep ratios along one direction."""
    optimizer = FixedDirection(problem.forms, problem.floors, direction)
    optimizer.step(direction, problem.budgets_at(0))
    return KeepRatioScheme(problem, masks, optimizer)


def random_direction(floors: Tensor, seed: int) -> Tensor:
    """v of `FixedDirection`, uniform in [log 0.2, 0]; of the shape and type of the floors, (K,)."""
    drawn = torch.rand(
        len(floors), generator=generator(seed, "random allocation"), dtype=floors.dtype
    )
    return math.log(SMALLEST) * drawn
