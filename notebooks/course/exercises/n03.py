"""Checks and answers of notebook 03, differentiable masks."""

from collections.abc import Callable

import torch
from torch import Tensor

from course.exercises.core import grade
from dsa_core.kernels import soft_topk, solve_threshold


def importances(seed: int, *sizes: int) -> list[Tensor]:
    """Positive random numbers, float64, one vector for each size."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(n, generator=draw, dtype=torch.float64).exp() for n in sizes]


def keep_probability(b: Tensor, beta1: float, beta2: float) -> Tensor:
    """DSA's sigmoid-log function, p = 1 / (1 + (b / beta1)^(-beta2))."""
    return 1 / (1 + (b / beta1) ** (-beta2))


def check_keep_probability(learner: Callable[[Tensor, float, float], Tensor]) -> None:
    """Grade exercise 1."""
    inputs = [
        (b, beta1, beta2)
        for b, beta1, beta2 in zip(
            importances(1, 1, 4, 9, 16), (1.0, 0.5, 2.0, 0.1), (1.0, 2.0, 5.0, 0.5), strict=True
        )
    ]
    hint = "p is 1/2 where b = beta1, and more where b is larger"
    grade("keep_probability", learner, keep_probability, inputs, hint=hint)


def log_threshold(b: Tensor, k: float, beta2: float) -> float:
    """The log beta1 at which the keep probabilities sum to k."""
    count, bounds = torch.tensor([k], dtype=b.dtype), torch.tensor([0, len(b)])
    return float(solve_threshold(b.log(), count, bounds, temperature=1 / beta2).root)


def check_log_threshold(learner: Callable[[Tensor, float, float], float]) -> None:
    """Grade exercise 2."""
    some = importances(2, 2, 4, 9, 16)
    inputs = list(zip(some, (1.0, 2.5, 1.0, 15.0), (1.0, 2.0, 5.0, 0.5), strict=True))
    hint = "the sum of p falls as the threshold rises: halve an interval that holds the root"
    grade("log_threshold", learner, log_threshold, inputs, hint=hint, rtol=1e-3, atol=1e-3)


def inexactness(p: Tensor) -> Tensor:
    """The variance of the number of kept channels, sum p (1 - p)."""
    return (p * (1 - p)).sum()


def check_inexactness(learner: Callable[[Tensor], Tensor]) -> None:
    """Grade exercise 3."""
    inputs = [(b / (1 + b),) for b in importances(3, 1, 4, 9)] + [(torch.tensor([0.0, 1.0]),)]
    hint = "variances of independent coins add up; one coin has p (1 - p), not its root"
    grade("inexactness", learner, inexactness, inputs, hint=hint)


def ratio_gradient(g: Tensor, p: Tensor) -> Tensor:
    """dL/dalpha = C sum_i g_i w_i / sum_j w_j with w = p (1 - p) and g = dL/dp."""
    w = p * (1 - p)
    return len(p) * (g * w).sum() / w.sum()


def check_ratio_gradient(learner: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Grade exercise 4."""
    inputs = [(b.log(), b.flip(0) / (1 + b.flip(0))) for b in importances(4, 1, 4, 9, 16)]
    hint = "alpha moves k = alpha C; k moves every p_i by its share w_i / sum w"
    grade("ratio_gradient", learner, ratio_gradient, inputs, hint=hint)


def transport_mask(s: Tensor, k: float, eps: float) -> Tensor:
    """Mask of entropic transport to the targets 0 (dropped) and 1 (kept), cost (s - y)^2.

    For two targets the plan has the closed form m = sigmoid((2 s - 1) / eps + t), sum m = k: the
    operator soft_topk at temperature eps / 2.
    """
    count, bounds = torch.tensor([k], dtype=s.dtype), torch.tensor([0, len(s)])
    return soft_topk(s, count, bounds, temperature=eps / 2)


def check_transport_mask(learner: Callable[[Tensor, float, float], Tensor]) -> None:
    """Grade exercise 5."""
    some = [b / (1 + b) for b in importances(5, 4, 6, 10)]
    inputs = list(zip(some, (2.0, 1.5, 7.0), (0.5, 1.0, 0.3), strict=True))
    hint = "n times the plan's second column; scale rows to 1/n and columns to (1 - k/n, k/n)"
    grade("transport_mask", learner, transport_mask, inputs, hint=hint, rtol=1e-3, atol=1e-3)
