"""Schedules of a search, as pure functions of the step: budget, sharpness, step length."""

import math


def budget_at(
    step: int, total: int, *, start: float, end: float, anneal_fraction: float = 0.5
) -> float:
    """Return the budget at a step: geometric from `start` to `end`, then constant.

    B(s) = start (end / start)^min(1, s / (anneal_fraction total)).  Geometric: every step asks for
    the same share.

    Args:
        step: s >= 0.
        total: number of steps of the search, > 0.
        start: cost at step 0, in (0, 1]; 1 for a dense start. It may lie below `end`.
        end: the budget asked for, in (0, 1]; returned exactly once the annealing is over.
        anneal_fraction: share of the steps in which the budget moves, in [0, 1]; 0 asks for
            `end` at once.

    Raises:
        ValueError: an argument is out of range.
    """
    _check_positive(start=start, end=end)
    if not 0.0 <= anneal_fraction <= 1.0:
        raise ValueError(f"anneal_fraction: wanted a number in [0, 1], got {anneal_fraction}")
    progress = _progress(step, total, anneal_fraction * total)
    return end if progress >= 1.0 else start * (end / start) ** progress


def sharpness_at(step: int, total: int, *, first: float, last: float) -> float:
    """Return the sharpness beta2: geometric from `first` (step 0) to `last` (step total - 1)."""
    _check_positive(first=first, last=last)
    progress = _progress(step, total, total - 1)
    return last if progress >= 1.0 else first * (last / first) ** progress


def step_scale_at(step: int, total: int) -> float:
    """Return the factor of the step length: (1 + cos(pi s / total)) / 2, from 1 to 0."""
    return (1.0 + math.cos(math.pi * _progress(step, total, total))) / 2.0


def _progress(step: int, total: int, length: float) -> float:
    """Return step / length, at most 1; 1 where the length is 0."""
    if total < 1:
        raise ValueError(f"total: wanted a number of steps >= 1, got {total}")
    if step < 0:
        raise ValueError(f"step: wanted an index >= 0, got {step}")
    return 1.0 if step >= length else step / length


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0.0):
            raise ValueError(f"{name}: wanted a finite number > 0, got {value}")
