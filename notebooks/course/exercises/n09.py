"""Exercises of notebook 09: scaling a plan, the closed form, the decay, zeros, and who pays."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course.exercises.core import grade

DTYPE = torch.float64


def solution_scale(plan: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Scale the rows to their sums, then the columns to theirs, shape (n, 2)."""
    plan = plan * (rows / plan.sum(1))[:, None]
    return plan * (columns / plan.sum(0))


def check_scale(learner: Callable[..., Tensor]) -> None:
    """Grade `scale(plan, rows, columns)`."""
    draw = torch.Generator().manual_seed(9)
    inputs = []
    for n, kept in ((4, 2.0), (5, 1.5), (3, 2.9)):
        plan = torch.rand(n, 2, generator=draw, dtype=DTYPE) + 0.1
        rows = torch.full((n,), 1 / n, dtype=DTYPE)
        inputs.append((plan, rows, torch.tensor([1 - kept / n, kept / n], dtype=DTYPE)))
    grade(
        "scale",
        learner,
        solution_scale,
        inputs,
        hint="multiply each row so that it sums to its entry of `rows`; then, on the result, each"
        " column so that it sums to its entry of `columns`. The columns come last",
    )


def solution_closed_mask(scores: Tensor, k: float, eps: float) -> Tensor:
    """Bisect on t until sum sigmoid((2 s - 1) / eps + t) = k."""
    x = (2 * scores - 1) / eps
    low, high = -float(x.max()) - 40, -float(x.min()) + 40
    for _ in range(100):
        t = (low + high) / 2
        low, high = (low, t) if torch.sigmoid(x + t).sum() > k else (t, high)
    return torch.sigmoid(x + high)


def check_closed_mask(learner: Callable[..., Tensor]) -> None:
    """Grade `closed_mask(scores, k, eps)`."""
    draw = torch.Generator().manual_seed(10)
    inputs = [
        (torch.rand(n, generator=draw, dtype=DTYPE), k, eps)
        for n, k, eps in ((4, 2.0, 0.5), (6, 1.0, 0.2), (8, 6.5, 1.0), (3, 0.5, 0.1))
    ]
    grade(
        "closed_mask",
        learner,
        solution_closed_mask,
        inputs,
        hint="m = sigmoid((2 s - 1) / eps + t): the cost of 'dropped' less that of 'kept' is"
        " s^2 - (s - 1)^2 = 2 s - 1; t is the one number at which the masks sum to k",
        atol=1e-5,
    )


def solution_steps_to(eps: float, wanted: float) -> int:
    """After t steps the entropy is eps / t."""
    return max(1, math.ceil(eps / wanted - 1e-9))


def check_steps_to(learner: Callable[..., int]) -> None:
    """Grade `steps_to(eps, wanted)`."""
    inputs = [(0.5, 0.05), (0.5, 0.03), (1.0, 0.01), (0.2, 0.2)]
    grade(
        "steps_to",
        learner,
        solution_steps_to,
        inputs,
        hint="t proximal steps at eps are one solution at eps / t; the smallest whole t for which"
        " that is not above what is wanted",
    )


def solution_weights_left(total: int, prunable: int, ratio: float) -> int:
    """Whole parameters within the budget, less those that always stay."""
    return math.floor(ratio * total + 1e-9) - (total - prunable)


def check_weights_left(learner: Callable[..., int]) -> None:
    """Grade `weights_left(total, prunable, ratio)`."""
    inputs = [(77754, 77136, 0.5), (77754, 77136, 0.1), (1000, 1000, 0.25), (1003, 900, 0.5)]
    grade(
        "weights_left",
        learner,
        solution_weights_left,
        inputs,
        hint="the budget is a share of all parameters, rounded down; biases and BatchNorm are in"
        " it, and cannot be pruned: they are paid for first",
    )


def solution_pull(gradient: Tensor, mask: Tensor, cost: Tensor, eps: float) -> Tensor:
    """(2 / eps) w (g - price f), shape (n,)."""
    w = mask * (1 - mask)
    price = (gradient * w).sum() / (cost * w).sum()
    return 2 / eps * w * (gradient - price * cost)


def check_pull(learner: Callable[..., Tensor]) -> None:
    """Grade `pull(gradient, mask, cost, eps)`."""
    draw = torch.Generator().manual_seed(12)
    inputs = [
        (
            torch.randn(n, generator=draw, dtype=DTYPE),
            torch.rand(n, generator=draw, dtype=DTYPE),
            torch.rand(n, generator=draw, dtype=DTYPE) + 0.1,
            eps,
        )
        for n, eps in ((2, 0.5), (5, 0.1), (9, 1.0))
    ]
    grade(
        "pull",
        learner,
        solution_pull,
        inputs,
        hint="differentiate sum f m = const: a change of t moves every m by w. The price is what"
        " the loss gives for one unit of cost, averaged over the undecided by w",
    )
