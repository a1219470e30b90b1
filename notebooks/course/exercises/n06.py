"""The exercise of notebook 06: ranks."""

from collections.abc import Callable

import torch
from torch import Tensor

from course.exercises.core import grade

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
