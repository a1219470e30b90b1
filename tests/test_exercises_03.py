"""Notebook 03: the check passes its answer and refuses what is usually got wrong."""

import torch
from course.exercises import n03
from graders import graded
from torch import Tensor


def bisected(b: Tensor, k: float, beta2: float) -> float:
    low, high = float(b.log().min()) - 50 / beta2, float(b.log().max()) + 50 / beta2
    for _ in range(60):
        middle = (low + high) / 2
        kept = float(torch.sigmoid(beta2 * (b.log() - middle)).sum())
        low, high = (middle, high) if kept > k else (low, middle)
    return low


WRONG = {
    n03.check_log_threshold: [
        lambda b, k, beta2: torch.tensor(bisected(b, k, beta2)).exp(),
        # the k-th largest: where the mask would turn if it were hard
        lambda b, k, beta2: float(b.log().sort(descending=True).values[int(k) - 1]),
    ],
}

test_the_answer_passes, test_usual_mistakes_are_refused = graded(
    {n03.check_log_threshold: bisected}, WRONG
)
