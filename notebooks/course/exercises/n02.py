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
