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
    grade("shift_to_all", learner, solution_shift_to_all, inputs, hint=hint)


def solution_keep_with_floor(s: Tensor, k: float, least: float) -> Tensor:
    """p = max(least, sigmoid(s - t)) with t such that sum p = k, by halving an interval."""
    low, high = s.min() - 50, s.max() + 50
    for _ in range(80):
        t = (low + high) / 2
        above = torch.sigmoid(s - t).clamp_min(least).sum() > k
        low, high = (t, high) if above else (low, t)
    return torch.sigmoid(s - low).clamp_min(least)


def check_keep_with_floor(learner: Callable[[Tensor, float, float], Tensor]) -> None:
    """Grade `keep_with_floor(s, k, least)`."""
    draw = torch.Generator().manual_seed(6)
    scores = [torch.randn(n, generator=draw, dtype=torch.float64) * 4 for n in (4, 8, 16)]
    kept = [(2.0, 0.01), (2.0, 0.1), (12.0, 0.05)]
    inputs = [(s, k, least) for s, (k, least) in zip(scores, kept, strict=True)]
    hint = "find t with sum of max(least, sigmoid(s - t)) = k: that sum, too, falls as t rises"
    grade("keep_with_floor", learner, solution_keep_with_floor, inputs, hint=hint)
