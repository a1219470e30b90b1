"""The exercise of notebook 03: the expectation condition."""

from functools import partial

import torch
from torch import Tensor

from course.exercises.core import grade
from dsa_core.kernels import solve_threshold

DRAW = torch.Generator().manual_seed(2)


def log_threshold(b: Tensor, k: float, beta2: float) -> float:
    """The log beta1 at which the keep probabilities sum to k."""
    count, bounds = torch.tensor([k], dtype=b.dtype), torch.tensor([0, len(b)])
    return float(solve_threshold(b.log(), count, bounds, temperature=1 / beta2).root)


check_log_threshold = partial(
    grade,
    log_threshold,
    [
        (torch.randn(n, generator=DRAW, dtype=torch.float64).exp(), k, beta2)
        for n, k, beta2 in ((2, 1.0, 1.0), (4, 2.5, 2.0), (9, 1.0, 5.0), (16, 15.0, 0.5))
    ],
    hint="the sum of p falls as the threshold rises: halve an interval that holds the root",
    rtol=1e-3,
    atol=1e-3,
)
