"""Exercises of notebook 08: the staircase, and the tilt."""

from collections.abc import Callable

import torch
from torch import Tensor

from course.exercises.core import grade

DTYPE = torch.float64


def odds(n: int, draw: torch.Generator) -> Tensor:
    """Random probabilities, shape (n,)."""
    return torch.randn(n, generator=draw, dtype=DTYPE).softmax(0)


def solution_staircase(pi: Tensor, counts: Tensor, size: int) -> Tensor:
    """m_i = sum of pi_j over the candidates that keep more than i channels, shape (size,)."""
    return (pi[:, None] * (torch.arange(size) < counts[:, None])).sum(0)


def check_staircase(learner: Callable[..., Tensor]) -> None:
    """Grade `staircase(pi, counts, size)`."""
    draw = torch.Generator().manual_seed(8)
    cases = [([1, 2, 4], 4), ([4], 4), ([2, 3, 5, 8], 8), ([1, 6], 6)]
    inputs = [(odds(len(c), draw), torch.tensor(c), size) for c, size in cases]
    grade(
        "staircase",
        learner,
        solution_staircase,
        inputs,
        hint="channel 0 is the most important; candidate j keeps channels 0 .. counts[j] - 1. A"
        " channel is kept by every candidate that keeps more than its number",
    )


def solution_tilt(pi: Tensor, x: Tensor, target: float) -> Tensor:
    """pi_j exp(t x_j), normalised, with t such that the mean of x is the target."""
    low, high = -500.0, 500.0
    for _ in range(200):
        t = (low + high) / 2
        tilted = (pi.log() + t * x).softmax(0)
        low, high = (t, high) if float(tilted @ x) < target else (low, t)
    return tilted


def check_tilt(learner: Callable[..., Tensor]) -> None:
    """Grade `tilt(pi, x, target)`."""
    draw = torch.Generator().manual_seed(10)
    inputs = []
    for n, target in ((2, 0.8), (4, 0.5), (4, 0.95), (8, 0.2)):
        inputs.append((odds(n, draw), torch.arange(1, n + 1, dtype=DTYPE) / n, target))
    grade(
        "tilt",
        learner,
        solution_tilt,
        inputs,
        hint="multiply by exp(t x) and normalise; the mean of x rises with t, from the smallest x"
        " to the largest, and t may be negative: halve an interval around 0",
        atol=1e-5,
    )
