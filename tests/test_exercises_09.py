"""Notebook 09: right answers pass, usual mistakes do not."""

import torch
from course.exercises import n09
from graders import graded

from dsa_core.budget import QuadraticForm
from dsa_core.methods.dtp_counts import competing_counts
from dsa_core.methods.dtp_transport import sinkhorn, transport_mask


def columns_first(plan, rows, columns):
    plan = plan * (columns / plan.sum(0))
    return plan * (rows / plan.sum(1))[:, None]


def both_at_once(plan, rows, columns):
    """The sums of the old plan, twice."""
    return plan * (rows / plan.sum(1))[:, None] * (columns / plan.sum(0))


WRONG = {
    n09.check_scale: [
        (columns_first, "columns come last"),
        (both_at_once, "on the result"),
    ],
    n09.check_closed_mask: [
        (lambda s, k, eps: torch.sigmoid((2 * s - 1) / eps), "sum to k"),
        (lambda s, k, eps: n09.solution_closed_mask(s, k, 2 * eps), "2 s - 1"),
        (lambda s, k, eps: k * torch.softmax(s / eps, 0), "sigmoid"),
    ],
    n09.check_steps_to: [
        (lambda eps, wanted: int(eps / wanted), "whole t"),
        (lambda eps, wanted: wanted / eps, "eps / t"),
    ],
    n09.check_weights_left: [
        (lambda total, prunable, ratio: int(ratio * prunable), "all parameters"),
        (lambda total, prunable, ratio: int(ratio * total), "paid for first"),
    ],
    n09.check_pull: [
        (lambda g, m, f, eps: 2 / eps * m * (1 - m) * g, "price"),
        (lambda g, m, f, eps: n09.solution_pull(g, m, torch.ones_like(f), eps), "cost"),
    ],
}

test_answers_pass, test_typical_slips_do_not = graded(n09, WRONG)


def test_answers_are_those_of_the_library() -> None:
    s = torch.tensor([0.1, 0.8, 0.4, 0.6, 0.9], dtype=torch.float64)
    k, ends, eps = torch.tensor([2.0], dtype=torch.float64), torch.tensor([0, 5]), 0.3
    ours = n09.solution_closed_mask(s, 2.0, eps)
    torch.testing.assert_close(ours, transport_mask(s, k, ends, eps=eps))
    plan = torch.exp(-((s[:, None] - torch.tensor([0.0, 1.0])) ** 2) / eps)
    for _ in range(3):
        rows, columns = torch.full((5,), 0.2).double(), torch.tensor([0.6, 0.4]).double()
        plan = n09.solution_scale(plan, rows, columns)
    torch.testing.assert_close(
        5 * plan[:, 1], sinkhorn(s, k, ends, eps=eps, steps=3), rtol=1e-6, atol=0
    )


def test_the_pull_is_the_gradient_of_the_library() -> None:
    """Each channel a group of its own, a linear cost: dm/ds of `competing_counts`."""
    s = torch.tensor([0.1, 0.8, 0.4, 0.6], dtype=torch.float64, requires_grad=True)
    f = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    form = QuadraticForm(torch.zeros(4, 4, dtype=torch.float64), f, 0.0)
    low = torch.full((4,), 1e-9, dtype=torch.float64)
    k = competing_counts(s, torch.arange(5), form, 0.5, eps=0.3, floors=low)
    g = torch.tensor([0.3, -1.0, 0.2, 0.5], dtype=torch.float64)
    (wanted,) = torch.autograd.grad((g * k).sum(), s)
    torch.testing.assert_close(n09.solution_pull(g, k.detach(), f, 0.3), wanted)
