"""Exercises of notebook 08: the staircase, and the tilt."""

from functools import partial

import torch
from scipy.optimize import brentq
from torch import Tensor

from course.exercises.core import grade

DTYPE = torch.float64
DRAW = torch.Generator().manual_seed(8)


def odds(n: int) -> Tensor:
    """Random probabilities, shape (n,)."""
    return torch.randn(n, generator=DRAW, dtype=DTYPE).softmax(0)


def solution_staircase(pi: Tensor, counts: Tensor, size: int) -> Tensor:
    """m_i = sum of pi_j over the candidates that keep more than i channels, shape (size,)."""
    return (pi[:, None] * (torch.arange(size) < counts[:, None])).sum(0)


check_staircase = partial(
    grade,
    solution_staircase,
    [
        (odds(len(counts)), torch.tensor(counts), size)
        for counts, size in (([1, 2, 4], 4), ([4], 4), ([2, 3, 5, 8], 8), ([1, 6], 6))
    ],
    hint="channel 0 is the most important; candidate j keeps channels 0 .. counts[j] - 1. A"
    " channel is kept by every candidate that keeps more than its number",
)


def solution_tilt(pi: Tensor, x: Tensor, target: float) -> Tensor:
    """pi_j exp(t x_j), normalised, with t such that the mean of x is the target."""

    def tilted(t: float) -> Tensor:
        return (pi.log() + t * x).softmax(0)

    return tilted(brentq(lambda t: float(tilted(t) @ x) - target, -500, 500))


check_tilt = partial(
    grade,
    solution_tilt,
    [
        (odds(n), torch.arange(1, n + 1, dtype=DTYPE) / n, target)
        for n, target in ((2, 0.8), (4, 0.5), (4, 0.95), (8, 0.2))
    ],
    hint="multiply by exp(t x) and normalise; the mean of x rises with t, from the smallest x"
    " to the largest, and t may be negative: halve an interval around 0",
    atol=1e-5,
)
