"""The exercise of notebook 09: the closed form of a plan."""

from collections.abc import Callable

import torch
from torch import Tensor

from course.exercises.core import grade

DTYPE = torch.float64


def solution_closed_mask(scores: Tensor, k: float, eps: float) -> Tensor:
    """Bisect on t until sum sigmoid((2 s - 1) / eps + t) = k."""
    x = (2 * scores - 1) / eps
    low, high = -float(x.max()) - 40, -float(x.min()) + 40
    for _ in range(100):
        t = (low + high) / 2
        low, high = (low, t) if torch.sigmoid(x + t).sum() > k else (t, high)
    return torch.sigmoid(x + high)


def check_closed_mask(learner: Callable[..., Tensor]) -> None:
    """Grade `closed_mask(scores, k, eps)`."""
    draw = torch.Generator().manual_seed(10)
    inputs = [
        (torch.rand(n, generator=draw, dtype=DTYPE), k, eps)
        for n, k, eps in ((4, 2.0, 0.5), (6, 1.0, 0.2), (8, 6.5, 1.0), (3, 0.5, 0.1))
    ]
    grade(
        "closed_mask",
        learner,
        solution_closed_mask,
        inputs,
        hint="m = sigmoid((2 s - 1) / eps + t): the cost of 'dropped' less that of 'kept' is"
        " s^2 - (s - 1)^2 = 2 s - 1; t is the one number at which the masks sum to k",
        atol=1e-5,
    )
