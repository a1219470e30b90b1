"""The exercise of notebook 09: the closed form of a plan."""

from functools import partial

import torch
from torch import Tensor

from course.exercises.core import grade
from dsa_core.methods.dtp_transport import transport_mask

DRAW = torch.Generator().manual_seed(10)


def solution_closed_mask(scores: Tensor, k: float, eps: float) -> Tensor:
    """sigmoid((2 s - 1) / eps + t), with t such that the masks sum to k."""
    kept, ends = torch.tensor([k], dtype=scores.dtype), torch.tensor([0, len(scores)])
    return transport_mask(scores, kept, ends, eps=eps)


check_closed_mask = partial(
    grade,
    solution_closed_mask,
    [
        (torch.rand(n, generator=DRAW, dtype=torch.float64), k, eps)
        for n, k, eps in ((4, 2.0, 0.5), (6, 1.0, 0.2), (8, 6.5, 1.0), (3, 0.5, 0.1))
    ],
    hint="m = sigmoid((2 s - 1) / eps + t): the cost of 'dropped' less that of 'kept' is"
    " s^2 - (s - 1)^2 = 2 s - 1; t is the one number at which the masks sum to k",
    atol=1e-5,
)
