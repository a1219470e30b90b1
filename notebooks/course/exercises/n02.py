"""Checks and answers of notebook 02, channel groups."""

import random
from collections.abc import Callable, Sequence

from course.exercises.core import grade

Pairs = list[tuple[int, int]]


def united(n: int, pairs: Pairs) -> list[int]:
    """The smallest id in the class of each of the ids 0 .. n - 1, when these pairs are united.

    Repeated relabelling: every pair gives the larger label's class the smaller label.
    """
    label = list(range(n))
    for i, j in pairs:
        low, high = sorted((label[i], label[j]))
        label = [low if value == high else value for value in label]
    return label


def check_united(learner: Callable[[int, Pairs], list[int]]) -> None:
    """Grade exercise 1."""
    draw = random.Random(2)
    inputs: list[tuple[int, Pairs]] = [
        (4, []),
        (4, [(3, 2), (2, 1)]),
        (6, [(0, 1), (2, 3), (3, 0)]),
    ]
    for n in (5, 9, 16):
        inputs.append((n, [(draw.randrange(n), draw.randrange(n)) for _ in range(n // 2)]))
    hint = "if a meets b, and b meets c, then a and c are one channel as well, in whatever order"
    grade("united", learner, united, inputs, hint=hint)


def kept_after_concat(sizes: Sequence[int], kept: Sequence[Sequence[int]]) -> list[int]:
    """Which channels of a concatenated tensor stay, when these stay in each of its parts."""
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [start + channel for start, part in zip(starts, kept, strict=True) for channel in part]


def check_kept_after_concat(
    learner: Callable[[Sequence[int], Sequence[Sequence[int]]], list[int]],
) -> None:
    """Grade exercise 2."""
    inputs = [
        ([4, 2], [[0, 3], [1]]),
        ([3, 3, 3], [[0, 1, 2], [], [2]]),
        ([1, 5, 2, 4], [[0], [1, 4], [0, 1], [0, 3]]),
    ]
    hint = "part i begins behind all channels that its forerunners had *before* anything was cut"
    grade("kept_after_concat", learner, kept_after_concat, inputs, hint=hint)


def conv_macs(reads: int, makes: int, kernel: int, side: int, depthwise: bool) -> int:
    """MACs of a convolution from `reads` to `makes` channels, side x side pixels large.

    Each output number takes kernel^2 multiply-adds for each channel it reads: all of them, or in a
    depthwise convolution only its own.
    """
    return makes * (1 if depthwise else reads) * kernel**2 * side**2


def check_conv_macs(learner: Callable[[int, int, int, int, bool], int]) -> None:
    """Grade exercise 3."""
    inputs = [
        (16, 16, 3, 32, False),
        (8, 12, 3, 32, False),
        (8, 12, 1, 7, False),
        (12, 12, 3, 16, True),
    ]
    hint = "how many numbers come out, and how many products does each of them add up?"
    grade("conv_macs", learner, conv_macs, inputs, hint=hint)


def shuffled(channels: int, groups: int) -> list[int]:
    """Channel shuffle: which input channel stands at each place of the output.

    The channels are written into a matrix of `groups` rows, and read column by column.
    """
    columns = channels // groups
    return [row * columns + column for column in range(columns) for row in range(groups)]


def check_shuffled(learner: Callable[[int, int], list[int]]) -> None:
    """Grade exercise 4."""
    inputs = [(6, 2), (6, 3), (8, 2), (12, 4), (5, 1)]
    hint = "try it on paper: 6 channels in 2 groups come out as 0 3 1 4 2 5"
    grade("shuffled", learner, shuffled, inputs, hint=hint)
