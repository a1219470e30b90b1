"""Notebook 08: every check passes its answer and refuses what is usually got wrong."""

import torch
from course.exercises import n08
from graders import graded
from torch import Tensor

from dsa_core.methods.dcss_choice import Candidates, staircase
from dsa_core.methods.dcss_tilt import tilt


def staircase_by_library(pi: Tensor, counts: Tensor, size: int) -> Tensor:
    group = torch.zeros(size, dtype=torch.int64)
    return staircase(pi[None], counts[None], torch.arange(size), group)


def tilt_by_library(pi: Tensor, x: Tensor, target: float) -> Tensor:
    counts = (8 * x).round().long()[None]
    some = Candidates(counts, torch.ones_like(counts).bool(), x[None])
    return tilt(pi.log()[None], some, torch.tensor([target]).double(), 1.0).softmax(1)[0]


def shifted(pi: Tensor, x: Tensor, target: float) -> Tensor:
    """Adds a constant to the logits: nothing changes."""
    return (pi.log() + target - float(pi @ x)).softmax(0)


def only_down(pi: Tensor, x: Tensor, target: float) -> Tensor:
    """Looks for negative t alone."""
    return n08.solution_tilt(pi, x, min(target, float(pi @ x)))


WRONG = {
    n08.check_staircase: [
        lambda pi, c, n: pi.cumsum(0)[:n],
        lambda pi, c, n: (pi[:, None] * (torch.arange(n) <= c[:, None])).sum(0),
        lambda pi, c, n: (torch.arange(n) < float(pi @ c.double())).double(),
    ],
    n08.check_tilt: [shifted, only_down],
}

test_the_answers_pass, test_usual_mistakes_are_refused = graded(
    {n08.check_staircase: staircase_by_library, n08.check_tilt: tilt_by_library}, WRONG
)
