"""Checks and answers of notebook 05, DSA from scratch."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from course.exercises.core import grade
from dsa_core.budget import Cost, QuadraticForm, shift_to_budgets
from dsa_core.lab import models
from dsa_core.tracing import trace

Forms = Sequence[QuadraticForm]


def resnet8_costs() -> tuple[Cost, Cost]:
    """MACs and parameters of the notebook's network."""
    graph = trace(models.build("resnet8"), models.example_input("resnet8"))
    return Cost.of(graph, "macs"), Cost.of(graph, "params")


def solution_shift_to_all(v: Tensor, forms: Forms, budgets: Sequence[float]) -> Tensor:
    """One shift, the largest that a budget asks for; one channel of each group stays."""
    floors = 1 / resnet8_costs()[0].sizes.double()
    return shift_to_budgets(v, forms, budgets, floors)[0]


def check_shift_to_all(learner: Callable[[Tensor, Forms, Sequence[float]], Tensor]) -> None:
    """Grade `shift_to_all(v, forms, budgets)`."""
    forms = [cost.relative for cost in resnet8_costs()]
    draw = torch.Generator().manual_seed(5)
    rows = -torch.rand(4, len(resnet8_costs()[0].sizes), generator=draw, dtype=torch.float64)
    asked = [[0.5, 0.4], [0.5, 0.9], [0.25, 0.3], [0.1, 0.05]]
    inputs = [(v, forms, budgets) for v, budgets in zip(rows, asked, strict=True)]
    hint = "each budget asks for a shift of its own; the largest of them is within every budget"
    grade(solution_shift_to_all, inputs, learner, hint=hint)
