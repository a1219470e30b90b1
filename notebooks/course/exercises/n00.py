"""Exercises of notebook 00: what a convolution costs, what half a budget means, a cut by hand."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course.exercises.core import grade


def solution_conv_macs(c_in: int, c_out: int, kernel: int, height: int, width: int) -> int:
    """MACs of a convolution on one picture; height and width are those of its output."""
    return c_in * c_out * kernel**2 * height * width


def check_conv_macs(learner: Callable[[int, int, int, int, int], int]) -> None:
    """Compare on layers whose five numbers all differ."""
    inputs = [(3, 16, 5, 32, 24), (16, 4, 3, 7, 9), (1, 8, 1, 2, 5), (12, 12, 3, 8, 8)]
    hint = (
        "each of the height x width outputs of each of the c_out channels is a sum over c_in "
        "channels and a window of kernel x kernel"
    )
    grade("conv_macs", learner, solution_conv_macs, inputs, hint=hint)


def solution_keep_ratio(ends: float, inner: float, budget: float) -> float:
    """The ratio r in (0, 1] with  ends r + inner r^2 = budget (ends + inner)."""
    total = budget * (ends + inner)
    if inner == 0:
        return total / ends
    return (math.sqrt(ends**2 + 4 * inner * total) - ends) / (2 * inner)


def check_keep_ratio(learner: Callable[[float, float, float], float]) -> None:
    """Compare on networks with much, little and nothing at the ends, and without a middle."""
    inputs = [(1.0, 9.0, 0.5), (2.0, 2.0, 0.25), (0.0, 5.0, 0.49), (3.0, 0.0, 0.3), (1.0, 9.0, 1.0)]
    hint = (
        "the ends see one cut side and shrink like r, the inner layers see two and shrink like "
        "r^2; solve ends r + inner r^2 = budget (ends + inner) by the formula or by bisection; "
        "mind inner = 0"
    )
    grade("keep_ratio", learner, solution_keep_ratio, inputs, hint=hint, rtol=1e-3)


def solution_cut_pair(first: Tensor, second: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Cut channels out between two convolutions.

    Args:
        first: weight that makes the channels, shape (M, C, k, k).
        second: weight that reads them, shape (N, M, k, k).
        keep: which of the M stay, bool, shape (M,).
    """
    return first[keep], second[:, keep]


def check_cut_pair(learner: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
    """Compare on random weights, with as many channels made as read, and with fewer."""
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for c, m, n in [(4, 4, 4), (3, 6, 2), (1, 8, 8)]:
        first = torch.randn(m, c, 3, 3, generator=generator)
        second = torch.randn(n, m, 3, 3, generator=generator)
        keep = torch.rand(m, generator=generator) < 0.5
        keep[0] = True
        inputs.append((first, second, keep))
    hint = "the maker loses rows (its first axis), the reader loses columns (its second axis)"
    grade("cut_pair", learner, solution_cut_pair, inputs, hint=hint)
