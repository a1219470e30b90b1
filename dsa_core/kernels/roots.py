"""Zeros of rising functions, many at once."""

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor], Tensor]

MAX_EVALUATIONS = 200  # halving alone needs about 60 from any bracket that occurs
_NARROWEST = 4 * torch.finfo(torch.float64).eps


def find_root(
    step: Step, lower: Tensor, upper: Tensor, *, nearly: float = 1e-7, start: Tensor | None = None
) -> tuple[Tensor, int]:
    """Find x with f(x) = 0, element by element, by Newton's method inside a bracket.

    A Newton step is taken where it stays inside the bracket, which every evaluation shrinks;
    elsewhere the bracket is halved. The last step, which squares the error, is not evaluated. An
    element that is done stands still, so that its answer does not depend on its neighbours.

    Args:
        step: x -> f(x) / f'(x) in the shape of x, of a function that rises; infinite where it is
            flat, with the sign of f(x).
        lower: where f <= 0, float64, any shape.
        upper: where f >= 0, in the shape of `lower`.
        nearly: |step| that is the last, the error after it being about `nearly`^2 |f''| / 2 f'.
        start: first x, between the two; None for the middle.

    Returns:
        x, and the number of evaluations; at `MAX_EVALUATIONS` the last x, for the caller to judge.
    """
    narrowest = _NARROWEST * (1 + torch.maximum(lower.abs(), upper.abs()))
    x = (lower + upper) / 2 if start is None else start
    done = torch.zeros_like(lower, dtype=torch.bool)
    for evaluations in range(1, MAX_EVALUATIONS + 1):
        off = step(x)
        below = off < 0
        lower, upper = torch.where(below, x, lower), torch.where(below, upper, x)
        newton = x - off
        trusted = newton == newton.clamp(lower, upper)  # not where it is NaN
        x = torch.where(done, x, torch.where(trusted, newton, (lower + upper) / 2))
        done = done | (off.abs() <= nearly) | (upper - lower <= narrowest)
        if evaluations == MAX_EVALUATIONS or bool(done.all()):
            break
    return x, evaluations
