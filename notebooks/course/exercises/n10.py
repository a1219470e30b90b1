"""The exercise of notebook 10: what a group lasso leaves."""

from functools import partial

import torch
from torch import Tensor

from course.exercises.core import grade

DRAW = torch.Generator().manual_seed(10)


def solution_shrink(best: Tensor, stiffness: Tensor, strength: float) -> Tensor:
    """The minimum of  sum_i h_i |w_i - a_i|^2 / 2 + lambda sum_i |w_i|,  w_i the rows of w."""
    norms = best.norm(dim=1)
    return best * (1 - strength / (stiffness * norms)).clamp(min=0)[:, None]


check_shrink = partial(
    grade,
    solution_shrink,
    [
        (
            torch.randn(n, 3, generator=DRAW, dtype=torch.float64),
            torch.rand(n, generator=DRAW, dtype=torch.float64) + 0.5,
            strength,
        )
        for n, strength in ((4, 0.0), (4, 0.5), (6, 1.5), (5, 50.0))
    ],
    hint="w_i points where a_i does: only its length is open, and it is h (|w| - |a|) + lambda"
    " = 0 that gives it; where that length would be negative, 0 is the best",
)
