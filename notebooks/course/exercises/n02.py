"""Checks and answers of notebook 02, channel groups."""

import random
from collections.abc import Sequence
from functools import partial

from course.exercises.core import grade

Pairs = list[tuple[int, int]]
DRAW = random.Random(2)


def united(n: int, pairs: Pairs) -> list[int]:
    """The smallest id in the class of each of the ids 0 .. n - 1, when these pairs are united.

    Repeated relabelling: every pair gives the larger label's class the smaller label.
    """
    label = list(range(n))
    for i, j in pairs:
        low, high = sorted((label[i], label[j]))
        label = [low if value == high else value for value in label]
    return label


SMALL: list[tuple[int, Pairs]] = [
    (4, []),
    (7, [(6, 5), (5, 4), (4, 3), (3, 2), (2, 1)]),  # two rounds over the pairs are too few
    (6, [(0, 1), (2, 3), (3, 0)]),
]
RANDOM = [(n, [(DRAW.randrange(n), DRAW.randrange(n)) for _ in range(n // 2)]) for n in (5, 9, 16)]
check_united = partial(
    grade,
    united,
    SMALL + RANDOM,
    hint="if a meets b, and b meets c, then a and c are one channel as well, in whatever order",
)


def kept_after_concat(sizes: Sequence[int], kept: Sequence[Sequence[int]]) -> list[int]:
    """Which channels of a concatenated tensor stay, when these stay in each of its parts."""
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [start + channel for start, part in zip(starts, kept, strict=True) for channel in part]


check_kept_after_concat = partial(
    grade,
    kept_after_concat,
    [
        ([4, 2], [[0, 3], [1]]),
        ([3, 3, 3], [[0, 1, 2], [], [2]]),
        ([1, 5, 2, 4], [[0], [1, 4], [0, 1], [0, 3]]),
    ],
    hint="part i begins behind all channels that its forerunners had *before* anything was cut",
)
