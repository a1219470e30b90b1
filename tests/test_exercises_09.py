"""Notebook 09: the right answer passes, usual mistakes do not."""

import torch
from course.exercises import n09
from graders import graded

from dsa_core.methods.dtp_transport import transport_mask


def by_library(scores, k, eps):
    kept, ends = torch.tensor([k], dtype=scores.dtype), torch.tensor([0, len(scores)])
    return transport_mask(scores, kept, ends, eps=eps)


WRONG = {
    n09.check_closed_mask: [
        lambda s, k, eps: torch.sigmoid((2 * s - 1) / eps),  # they need not sum to k
        lambda s, k, eps: by_library(s, k, 2 * eps),
        lambda s, k, eps: k * torch.softmax(s / eps, 0),
    ],
}

test_the_answer_passes, test_usual_mistakes_are_refused = graded(
    {n09.check_closed_mask: by_library}, WRONG
)
