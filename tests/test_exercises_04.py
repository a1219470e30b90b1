"""Checks of notebook 04: the answers pass, typical mistakes do not."""

import torch
from course.exercises import n04
from graders import graded

from dsa_core.budget import QuadraticForm, shift_to_budget


def land_from_above_only(log_ratios, cost, budget):
    """The mistake of "at most": never grows."""
    if cost(log_ratios.exp()) <= budget:
        return log_ratios
    return n04.solution_land(log_ratios, cost, budget)


WRONG = {
    n04.check_land: [
        (land_from_above_only, "both"),
        (lambda v, cost, budget: v + torch.tensor(budget).log(), "interval"),
    ],
}

test_answers_pass, test_typical_slips_do_not = graded(n04, WRONG)


def test_answers_are_those_of_the_library() -> None:
    Q = torch.tensor([[0.0, 2.0], [2.0, 0.0]], dtype=torch.float64) / 7
    cost = QuadraticForm(Q, torch.tensor([3.0, 0.0], dtype=torch.float64) / 7, 0.0)
    alpha = torch.tensor([0.7, 0.5], dtype=torch.float64)
    floors = torch.full((2,), 1e-3, dtype=torch.float64)
    landed, _ = shift_to_budget(alpha.log(), cost, 0.2, floors)
    torch.testing.assert_close(n04.solution_land(alpha.log(), cost, 0.2), landed)
    torch.testing.assert_close(n04.chain(alpha), cost(alpha))
