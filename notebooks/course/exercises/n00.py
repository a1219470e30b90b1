"""Exercises of notebook 00: what a convolution costs, and a cut by hand."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course.exercises.core import grade


def solution_conv_macs(
    c_in: int, c_out: int, kernel: int, height: int, width: int, stride: int, groups: int
) -> int:
    """MACs of a convolution on one image of height x width, padded to keep the size at stride 1."""
    places = math.ceil(height / stride) * math.ceil(width / stride)
    return c_in // groups * c_out * kernel**2 * places


def check_conv_macs(learner: Callable[..., int]) -> None:
    """Compare on layers whose numbers all differ."""
    inputs = [(3, 16, 5, 32, 24, 1, 1), (16, 4, 3, 7, 9, 2, 1), (12, 12, 3, 8, 10, 3, 12)]
    hint = (
        "each computed place of each of the c_out channels is a sum over c_in / groups channels "
        "and a window of kernel x kernel; with stride 2, 7 rows become 4"
    )
    grade("conv_macs", learner, solution_conv_macs, inputs, hint=hint)


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
    hint = "the producer loses rows (its first axis), the consumer loses columns (its second axis)"
    grade("cut_pair", learner, solution_cut_pair, inputs, hint=hint)
