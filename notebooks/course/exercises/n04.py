"""The exercise of notebook 04: the shift that lands on a budget."""

from collections.abc import Callable
from functools import partial

import torch
from scipy.optimize import brentq
from torch import Tensor

from course.exercises.core import grade

DRAW = torch.Generator().manual_seed(5)


def solution_land(log_ratios: Tensor, cost: Callable[[Tensor], Tensor], budget: float) -> Tensor:
    """v - c, where F(exp(v - c)) = B."""
    shift = brentq(lambda c: float(cost((log_ratios - c).exp())) - budget, -20, 20)
    return log_ratios - shift


def chain(alpha: Tensor) -> Tensor:
    """A cost to try on: a chain of layers, each paid with the one before; F(1) = 1."""
    return (3 * alpha[0] + 4 * (alpha[1:] * alpha[:-1]).sum()) / (3 + 4 * (len(alpha) - 1))


check_land = partial(
    grade,
    solution_land,
    [
        (-2 * torch.rand(k, generator=DRAW, dtype=torch.float64), chain, budget)
        for k, budget in ((2, 0.5), (4, 0.25), (3, 0.9), (5, 0.05))
    ],
    hint="one shift c for all groups, found by halving an interval; the budget is met from both"
    " sides, so c may be negative",
    atol=1e-5,
)
