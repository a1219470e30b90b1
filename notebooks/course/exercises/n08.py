"""Exercises of notebook 08: the staircase, the expected cost, the tilt, the slope along it."""

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


def solution_expected_cost(pi1: Tensor, pi2: Tensor, x: Tensor, q: Tensor) -> float:
    """Sum over both groups' candidates of pi1_i pi2_j (q0 x_i + q1 x_i x_j)."""
    first, second = pi1 @ x, pi2 @ x
    return float(q[0] * first + q[1] * first * second)


def check_expected_cost(learner: Callable[..., float]) -> None:
    """Grade `expected_cost(pi1, pi2, x, q)`."""
    draw = torch.Generator().manual_seed(9)
    inputs = []
    for n in (2, 4, 8):
        x = torch.arange(1, n + 1, dtype=DTYPE) / n
        q = torch.rand(2, generator=draw, dtype=DTYPE)
        inputs.append((odds(n, draw), odds(n, draw), x, q))
    grade(
        "expected_cost",
        learner,
        solution_expected_cost,
        inputs,
        hint="the groups choose independently: the mean of a product is the product of the means",
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


def solution_slope(gain: Tensor, pi: Tensor, x: Tensor) -> float:
    """Cov(x, gain) / Var(x) under pi."""
    away = x - pi @ x
    return float((pi * away * gain).sum() / (pi * away.square()).sum())


def check_slope(learner: Callable[..., float]) -> None:
    """Grade `slope(gain, pi, x)`."""
    draw = torch.Generator().manual_seed(11)
    inputs = []
    for n in (2, 3, 8):
        gain = torch.randn(n, generator=draw, dtype=DTYPE)
        inputs.append((gain, odds(n, draw), torch.arange(1, n + 1, dtype=DTYPE) / n))
    grade(
        "slope",
        learner,
        solution_slope,
        inputs,
        hint="tilting by a small t changes pi_j by t pi_j (x_j - mean): by how much does that move"
        " the loss, and by how much the expected ratio? Divide",
    )
