"""The exercise of notebook 03: the expectation condition."""

from collections.abc import Callable

import torch
from torch import Tensor

from course.exercises.core import grade
from dsa_core.kernels import solve_threshold


def importances(seed: int, *sizes: int) -> list[Tensor]:
    """Positive random numbers, float64, one vector for each size."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(n, generator=draw, dtype=torch.float64).exp() for n in sizes]


def log_threshold(b: Tensor, k: float, beta2: float) -> float:
    """The log beta1 at which the keep probabilities sum to k."""
    count, bounds = torch.tensor([k], dtype=b.dtype), torch.tensor([0, len(b)])
    return float(solve_threshold(b.log(), count, bounds, temperature=1 / beta2).root)


def check_log_threshold(learner: Callable[[Tensor, float, float], float]) -> None:
    """Grade exercise 1."""
    some = importances(2, 2, 4, 9, 16)
    inputs = list(zip(some, (1.0, 2.5, 1.0, 15.0), (1.0, 2.0, 5.0, 0.5), strict=True))
    hint = "the sum of p falls as the threshold rises: halve an interval that holds the root"
    grade("log_threshold", learner, log_threshold, inputs, hint=hint, rtol=1e-3, atol=1e-3)
