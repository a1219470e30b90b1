"""Exercises of notebook 11: intensity, the roof, lanes, a Newton step, what half the MACs gain."""

from collections.abc import Callable

import torch
from torch import Tensor

from course.exercises.core import grade

BYTES = 4  # of a float32


def solution_intensity(batch: int, n: int, m: int, kernel: int, side: int) -> float:
    """MACs over bytes of a convolution of stride 1 that keeps the size of its pictures."""
    macs = batch * side**2 * kernel**2 * n * m
    numbers = batch * side**2 * (n + m) + kernel**2 * n * m
    return macs / (BYTES * numbers)


def check_intensity(learner: Callable[..., float]) -> None:
    """Grade `intensity(batch, n, m, kernel, side)`."""
    inputs = [(1, 4, 4, 3, 8), (16, 16, 16, 3, 32), (16, 64, 32, 1, 8), (128, 3, 16, 5, 32)]
    grade(
        "intensity",
        learner,
        solution_intensity,
        inputs,
        hint="three things move: input, output and weights, 4 bytes a number; the weights only"
        " once, however large the batch is",
    )


def solution_attainable(intensity: float, peak: float, bandwidth: float) -> float:
    """The lower of the two roofs, in the unit of `peak`."""
    return min(peak, intensity * bandwidth)


def check_attainable(learner: Callable[..., float]) -> None:
    """Grade `attainable(intensity, peak, bandwidth)`."""
    inputs = [(1.0, 80.0, 10.0), (60.0, 80.0, 10.0), (8.0, 80.0, 10.0), (0.5, 100.0, 20.0)]
    grade(
        "attainable",
        learner,
        solution_attainable,
        inputs,
        hint="bytes per second times MACs per byte are MACs per second; no layer beats the"
        " arithmetic either, and the lower of the two roofs counts",
    )


def solution_lanes_used(width: int, block: int) -> float:
    """Channels over the places of all blocks that they need."""
    blocks = -(-width // block)
    return width / (blocks * block)


def check_lanes_used(learner: Callable[..., float]) -> None:
    """Grade `lanes_used(width, block)`."""
    inputs = [(11, 8), (16, 8), (17, 16), (5, 8), (45, 16), (64, 16)]
    grade(
        "lanes_used",
        learner,
        solution_lanes_used,
        inputs,
        hint="a block that is begun is paid in full: round the number of blocks up",
    )


def solution_newton_step(scores: Tensor, k: int, t: float) -> float:
    """One step of Newton's method on log A - log B, see notebook 11."""
    p = torch.sigmoid(scores.sort(descending=True).values - t)
    w = p * (1 - p)
    dropped, kept = (1 - p[:k]).sum(), p[k:].sum()
    slope = w[:k].sum() / dropped + w[k:].sum() / kept
    return float(t - (dropped / kept).log() / slope)


def check_newton_step(learner: Callable[..., float]) -> None:
    """Grade `newton_step(scores, k, t)`."""
    draw = torch.Generator().manual_seed(11)
    inputs = [
        (2 * torch.randn(n, generator=draw, dtype=torch.float64), k, t)
        for n, k, t in ((4, 2, 0.5), (6, 1, 3.0), (9, 7, -4.0), (5, 3, 0.0))
    ]
    grade(
        "newton_step",
        learner,
        solution_newton_step,
        inputs,
        hint="sort first; A is what the k best lack, B is what the others have; as t rises A rises"
        " by sum w of its own channels and B falls by that of its own, so that both terms of the"
        " slope of log A - log B are positive",
    )


def solution_speedup(share: float, macs_left: float) -> float:
    """Amdahl's law: the part without MACs stays as it is."""
    return 1 / (share * macs_left + 1 - share)


def check_speedup(learner: Callable[..., float]) -> None:
    """Grade `speedup(share, macs_left)`."""
    inputs = [(1.0, 0.5), (0.8, 0.5), (0.5, 0.1), (0.9, 0.25), (0.0, 0.5)]
    grade(
        "speedup",
        learner,
        solution_speedup,
        inputs,
        hint="add up the times that are left: of the share only `macs_left`, of the rest all;"
        " the speed-up is one over that",
    )
