"""Zeros of rising functions, many at once."""

from collections.abc import Callable

import torch
from torch import Tensor

Rising = Callable[[Tensor], tuple[Tensor, Tensor]]  # x -> value, slope

MAX_EVALUATIONS = 200  # halving alone needs about 60 from any bracket that occurs
_NARROWEST = 4 * torch.finfo(torch.float64).eps


def find_root(
    f: Rising, lower: Tensor, upper: Tensor, *, resolved: Tensor | float
) -> tuple[Tensor, int]:
    """Find x with f(x) = 0, element by element, by Newton's method inside a bracket.

    A Newton step is taken where it stays inside the bracket, which every evaluation shrinks;
    elsewhere the bracket is halved. An element that is done stands still, so that its answer does
    not depend on its neighbours.

    Args:
        f: x -> its value, which rises in x, and its slope, both in the shape of x.
        lower: where f <= 0, float64, any shape.
        upper: where f >= 0, in the shape of `lower`.
        resolved: |f| that counts as 0.

    Returns:
        x, and the number of evaluations; at `MAX_EVALUATIONS` the last x, for the caller to judge.
    """
    narrowest = _NARROWEST * (1 + torch.maximum(lower.abs(), upper.abs()))
    x = (lower + upper) / 2
    for evaluations in range(1, MAX_EVALUATIONS + 1):
        value, slope = f(x)
        done = (value.abs() <= resolved) | (upper - lower <= narrowest)
        if evaluations == MAX_EVALUATIONS or bool(done.all()):
            break
        rising = value < 0
        lower, upper = torch.where(rising, x, lower), torch.where(rising, upper, x)
        newton, middle = x - value / slope, (lower + upper) / 2
        trusted = newton == newton.clamp(lower, upper)  # not where it is NaN
        x = torch.where(done, x, torch.where(trusted, newton, middle))
    return x, evaluations
