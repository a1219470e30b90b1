"""The exercise of notebook 06: ranks."""

from functools import partial

import torch
from scipy.stats import spearmanr
from torch import Tensor

from course.exercises.core import grade

DRAW = torch.Generator().manual_seed(6)


def solution_spearman(x: Tensor, y: Tensor) -> float:
    """Spearman's rank correlation, without ties."""
    return float(spearmanr(x, y)[0])


PAIRS = [tuple(torch.randn(2, n, generator=DRAW, dtype=torch.float64)) for n in (4, 6, 12)]
check_spearman = partial(
    grade,
    solution_spearman,
    [*PAIRS, (PAIRS[0][0], PAIRS[0][0] ** 3)],
    hint="correlate the ranks, not the values: argsort of argsort gives the rank of each entry",
)
