"""Notebook 08: every check passes its answer and refuses what is usually got wrong."""

import pytest
import torch
from course.exercises import n08
from graders import graded
from torch import Tensor

from dsa_core.budget import QuadraticForm
from dsa_core.methods.dcss_choice import Candidates, staircase
from dsa_core.methods.dcss_tilt import ratio_slope, tilt

ALSO_RIGHT = [
    (
        n08.check_staircase,
        lambda pi, counts, size: torch.stack([pi[counts > i].sum() for i in range(size)]),
    ),
    (
        n08.check_expected_cost,
        lambda p, r, x, q: float(
            (p[:, None] * r * (q[0] * x[:, None] + q[1] * x[:, None] * x)).sum()
        ),
    ),
]


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
    n08.check_expected_cost: [
        lambda p, r, x, q: float(q[0] * (p @ x) + q[1] * (p * r) @ x),
        lambda p, r, x, q: float(q[0] * x[p.argmax()] + q[1] * x[p.argmax()] * x[r.argmax()]),
    ],
    n08.check_tilt: [
        shifted,
        only_down,
    ],
    n08.check_slope: [
        lambda gain, pi, x: float((pi * (x - pi @ x) * gain).sum()),
        lambda gain, pi, x: float((gain[-1] - gain[0]) / (x[-1] - x[0])),
    ],
}

test_answers_pass, test_typical_slips_do_not = graded(n08, WRONG, ALSO_RIGHT)


def test_answers_are_those_of_the_library() -> None:
    draw = torch.Generator().manual_seed(0)
    counts = torch.tensor([[2, 3, 5, 8]])
    x = counts.double() / 8
    some = Candidates(counts, torch.ones_like(counts).bool(), x)
    pi = n08.odds(4, draw)
    mask = staircase(pi[None], counts, torch.arange(8), torch.zeros(8, dtype=torch.int64))
    torch.testing.assert_close(n08.solution_staircase(pi, counts[0], 8), mask)
    target = torch.tensor([0.6], dtype=n08.DTYPE)
    tilted = tilt(pi.log()[None], some, target, 1.0).softmax(1)[0]
    torch.testing.assert_close(n08.solution_tilt(pi, x[0], 0.6), tilted)
    gain = torch.randn(4, generator=draw, dtype=n08.DTYPE)
    slope = float(ratio_slope(gain[None], pi[None], some))
    assert n08.solution_slope(gain, pi, x[0]) == pytest.approx(slope)
    Q = torch.tensor([[0.0, 0.35], [0.35, 0.0]], dtype=n08.DTYPE)
    form = QuadraticForm(Q, torch.tensor([0.3, 0.0], dtype=n08.DTYPE), 0.0)
    other = n08.odds(4, draw)
    expected = form(torch.stack([pi @ x[0], other @ x[0]]))
    ours = n08.solution_expected_cost(pi, other, x[0], torch.tensor([0.3, 0.7]))
    assert ours == pytest.approx(float(expected))
