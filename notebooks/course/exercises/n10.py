"""Exercises of notebook 10: what a penalty leaves, the next strength, a price, a wall, a bill."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course.exercises.core import grade

DTYPE = torch.float64


def solution_shrink(best: Tensor, stiffness: Tensor, strength: float) -> Tensor:
    """The minimum of  sum_i h_i |w_i - a_i|^2 / 2 + lambda sum_i |w_i|,  w_i the rows of w."""
    norms = best.norm(dim=1)
    return best * (1 - strength / (stiffness * norms)).clamp(min=0)[:, None]


def check_shrink(learner: Callable[..., Tensor]) -> None:
    """Grade `shrink(best, stiffness, strength)`."""
    draw = torch.Generator().manual_seed(10)
    inputs = [
        (
            torch.randn(n, 3, generator=draw, dtype=DTYPE),
            torch.rand(n, generator=draw, dtype=DTYPE) + 0.5,
            strength,
        )
        for n, strength in ((4, 0.0), (4, 0.5), (6, 1.5), (5, 50.0))
    ]
    grade(
        "shrink",
        learner,
        solution_shrink,
        inputs,
        hint="w_i points where a_i does: only its length is open, and it is h (|w| - |a|) + lambda"
        " = 0 that gives it; where that length would be negative, 0 is the best",
    )


def solution_between(
    weak: tuple[float, float], strong: tuple[float, float], wanted: float
) -> float:
    """Interpolate the cost linearly in log lambda."""
    (l0, c0), (l1, c1) = weak, strong
    share = (c0 - wanted) / (c0 - c1)
    return math.exp(math.log(l0) + share * (math.log(l1) - math.log(l0)))


def check_between(learner: Callable[..., float]) -> None:
    """Grade `between(weak, strong, wanted)`."""
    inputs = [
        ((1.0, 0.9), (16.0, 0.1), 0.5),
        ((0.01, 1.0), (0.1, 0.2), 0.3),
        ((2.0, 0.6), (4.0, 0.4), 0.55),
    ]
    grade(
        "between",
        learner,
        solution_between,
        inputs,
        hint="which share of the way from the weak to the strong cost is wanted? Go the same share"
        " of the way from log lambda to log lambda",
    )


def solution_prices(cost: float, alive_in: int, alive_out: int) -> tuple[float, float]:
    """The slope of  cost * in * out  in the channels read, and in those made."""
    return cost * alive_out, cost * alive_in


def check_prices(learner: Callable[..., tuple[float, float]]) -> None:
    """Grade `prices(cost, alive_in, alive_out)`."""
    grade(
        "prices",
        learner,
        solution_prices,
        [(9.0, 3, 16), (576.0, 16, 32), (1.0, 64, 10)],
        hint="removing one channel that is read saves one input for every output alive; and the"
        " other way round",
    )


def solution_wall(sizes: list[int], least: int, limit: int) -> int:
    """The most channels of the first layer such that the least of the second still fits."""
    fitting = [n for n in range(least, sizes[0] + 1) if 3 * n + n * least <= limit]
    return max(fitting)


def check_wall(learner: Callable[..., int]) -> None:
    """Grade `wall(sizes, least, limit)`."""
    grade(
        "wall",
        learner,
        solution_wall,
        [([8, 8], 2, 25), ([8, 8], 2, 44), ([8, 8], 1, 100), ([16, 4], 3, 60)],
        hint="the second layer will keep at least `least`: what do n channels cost then, 3 n + n *"
        " least, and which n is the largest that fits (no more than there are)?",
    )


def solution_in_epochs(episodes: int, examples: int, trained: int) -> float:
    """Forward passes of all episodes, in epochs; a training step costs three forward passes."""
    return episodes * examples / (3 * trained)


def check_in_epochs(learner: Callable[..., float]) -> None:
    """Grade `in_epochs(episodes, examples, trained)`."""
    grade(
        "in_epochs",
        learner,
        solution_in_epochs,
        [(400, 5000, 45_000), (400, 287, 1150), (10, 300, 100)],
        hint="an episode is one forward pass of `examples`; an epoch is a forward and a backward"
        " pass of `trained`, and a backward pass costs two forward passes",
    )
