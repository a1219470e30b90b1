"""Exercises of notebook 06: ranks, and the gradient of a keep ratio."""

from collections.abc import Callable

import torch
from torch import Tensor

from course.exercises.core import grade
from course.sensitivity import softmax_scaled

DTYPE = torch.float64


def solution_spearman(x: Tensor, y: Tensor) -> float:
    """1 - 6 sum d^2 / (n (n^2 - 1)), d = difference of the ranks; without ties."""
    d = (x.argsort().argsort() - y.argsort().argsort()).double()
    n = len(x)
    return float(1 - 6 * d.square().sum() / (n * (n**2 - 1)))


def check_spearman(learner: Callable[..., float]) -> None:
    """Grade `spearman(x, y)`."""
    draw = torch.Generator().manual_seed(6)
    inputs = [
        (torch.randn(n, generator=draw, dtype=DTYPE), torch.randn(n, generator=draw, dtype=DTYPE))
        for n in (4, 6, 12)
    ]
    inputs += [(x, x**3) for x, _ in inputs[:1]]
    grade(
        "spearman",
        learner,
        solution_spearman,
        inputs,
        hint="correlate the ranks, not the values: argsort of argsort gives the rank of each entry",
    )


def solution_ratio_slope(gradient: Tensor, p: Tensor) -> float:
    """dL/dalpha = C sum_i g_i w_i / sum_j w_j, w = p (1 - p)."""
    w = p * (1 - p)
    return float(len(p) * (gradient * w).sum() / w.sum())


def check_ratio_slope(learner: Callable[..., float]) -> None:
    """Grade `ratio_slope(gradient, p)`."""
    draw = torch.Generator().manual_seed(7)
    inputs = [
        (
            torch.randn(n, generator=draw, dtype=DTYPE),
            torch.rand(n, generator=draw, dtype=DTYPE).clamp(0.05, 0.95),
        )
        for n in (1, 4, 9)
    ]
    grade(
        "ratio_slope",
        learner,
        solution_ratio_slope,
        inputs,
        hint="a channel takes part in proportion to p (1 - p); raising alpha by d hands out C d of"
        " probability in all",
    )


def check_softmax_scaled(learner: Callable[..., Tensor]) -> None:
    """Grade `scaled(values)`: softmax(v / std v), with the divisor n in std."""
    draw = torch.Generator().manual_seed(8)
    inputs = [(5 * torch.randn(n, generator=draw, dtype=DTYPE),) for n in (3, 6, 12)]
    grade(
        "scaled",
        learner,
        softmax_scaled,
        inputs,
        hint="divide by the standard deviation of the values themselves (divide by n, not n - 1:"
        " `std(correction=0)`), then softmax",
    )
