"""Exercises of notebook 04: prices, the shift that lands on a budget, and what a penalty misses."""

from collections.abc import Callable

import torch
from torch import Tensor

from course.exercises.core import grade

DTYPE = torch.float64


def solution_price(gradient: Tensor, cost_gradient: Tensor, cost: float) -> Tensor:
    """r_k = F (dL/dalpha_k) / (dF/dalpha_k), shape (K,)."""
    return cost * gradient / cost_gradient


def check_price(learner: Callable[..., Tensor]) -> None:
    """Grade `price(gradient, cost_gradient, cost)`."""
    draw = torch.Generator().manual_seed(4)
    inputs = [
        (
            torch.randn(k, generator=draw, dtype=DTYPE),
            torch.rand(k, generator=draw, dtype=DTYPE) + 0.1,
            0.2 + 0.1 * k,
        )
        for k in (1, 2, 5)
    ]
    grade(
        "price",
        learner,
        solution_price,
        inputs,
        hint="a price is loss per share of the cost: how much loss and how much cost does one step"
        " of alpha_k move? The share is of F as it is now, not of the dense cost",
    )


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


def solution_excess(multiplier: float, weight: float) -> float:
    """At rest  weight * (F - B) = multiplier."""
    return multiplier / weight


def check_excess(learner: Callable[..., float]) -> None:
    """Grade `excess(multiplier, weight)`."""
    inputs = [(0.2, 1.0), (0.2, 10.0), (1.5, 100.0), (0.03, 0.5)]
    grade(
        "excess",
        learner,
        solution_excess,
        inputs,
        hint="set the slope of L + weight/2 (F - B)^2 to zero along alpha_k, and compare with"
        " dL/dalpha_k = -multiplier dF/dalpha_k",
    )


def solution_dual_step(u: Tensor, theta: Tensor, z: Tensor) -> Tensor:
    """Scaled dual: add what the primal wants beyond what the budget allowed."""
    return u + theta - z


def check_dual_step(learner: Callable[..., Tensor]) -> None:
    """Grade `dual_step(u, theta, z)`."""
    draw = torch.Generator().manual_seed(6)
    inputs = [tuple(torch.randn(k, generator=draw, dtype=DTYPE) for _ in "uvz") for k in (1, 2, 5)]
    grade(
        "dual_step",
        learner,
        solution_dual_step,
        inputs,
        hint="the dual grows while the wish theta lies above what is allowed, z, and so drags"
        " theta down in the next step",
    )
