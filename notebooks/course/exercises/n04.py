"""The exercise of notebook 04: the shift that lands on a budget."""

from collections.abc import Callable

import torch
from torch import Tensor

from course.exercises.core import grade

DTYPE = torch.float64


def solution_land(log_ratios: Tensor, cost: Callable[[Tensor], Tensor], budget: float) -> Tensor:
    """Bisect on c until F(exp(v - c)) = B; return v - c."""
    low, high = -20.0, 20.0  # F(exp(v - low)) > B > F(exp(v - high))
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if cost((log_ratios - middle).exp()) > budget else (low, middle)
    return log_ratios - high


def chain(alpha: Tensor) -> Tensor:
    """A cost to try on: a chain of layers, each paid with the one before; F(1) = 1."""
    return (3 * alpha[0] + 4 * (alpha[1:] * alpha[:-1]).sum()) / (3 + 4 * (len(alpha) - 1))


def check_land(learner: Callable[..., Tensor]) -> None:
    """Grade `land(log_ratios, cost, budget)`."""
    draw = torch.Generator().manual_seed(5)
    inputs = [
        (-2 * torch.rand(k, generator=draw, dtype=DTYPE), chain, budget)
        for k, budget in ((2, 0.5), (4, 0.25), (3, 0.9), (5, 0.05))
    ]
    grade(
        "land",
        learner,
        solution_land,
        inputs,
        hint="one shift c for all groups, found by halving an interval; the budget is met from both"
        " sides, so c may be negative",
        atol=1e-5,
    )
