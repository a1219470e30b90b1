"""Exercises of notebook 01: what a keep ratio leaves, and widths that hardware likes."""

from collections.abc import Callable

from course.exercises.core import grade


def solution_macs_left(image: int, widths: list[int], ratio: float) -> float:
    """Every layer but the first has fewer inputs as well as fewer outputs."""
    pairs = list(zip([image, *widths[:-1]], widths, strict=True))
    dense = sum(a * b for a, b in pairs)
    return (ratio * pairs[0][0] * pairs[0][1] + sum(ratio**2 * a * b for a, b in pairs[1:])) / dense


def check_macs_left(learner: Callable[..., float]) -> None:
    """Grade `macs_left(image, widths, ratio)`."""
    inputs = [(3, [4, 4], 0.5), (3, [16, 16, 32, 64], 0.5), (3, [64, 8], 0.25), (1, [5], 0.6)]
    grade(
        "macs_left",
        learner,
        solution_macs_left,
        inputs,
        hint="a layer costs inputs times outputs; the inputs of the first layer are the channels"
        " of the image, and nobody prunes an image",
    )


def solution_ratio_for(budget: float, quadratic: float, linear: float) -> float:
    """The positive root of quadratic a^2 + linear a = budget."""
    if quadratic == 0:
        return budget / linear
    return float((-linear + (linear**2 + 4 * quadratic * budget) ** 0.5) / (2 * quadratic))


def check_ratio_for(learner: Callable[..., float]) -> None:
    """Grade `ratio_for(budget, quadratic, linear)`."""
    inputs = [(0.5, 0.989, 0.011), (0.25, 4 / 7, 3 / 7), (0.75, 0.2, 0.8), (0.4, 1.0, 0.0)]
    grade(
        "ratio_for",
        learner,
        solution_ratio_for,
        inputs,
        hint="solve quadratic * a**2 + linear * a = budget for a > 0",
    )


def solution_friendly(count: int, divisor: int, size: int) -> int:
    """The largest allowed width that is not wider; never none, never more than there are."""
    return size if count >= size else max(min(divisor, size), count // divisor * divisor)


def check_friendly(learner: Callable[..., int]) -> None:
    """Grade `friendly(count, divisor, size)`."""
    inputs = [
        (19, 8, 32),
        (22, 8, 64),
        (5, 8, 16),
        (32, 8, 32),
        (30, 8, 30),
        (3, 4, 3),
        (16, 8, 20),
    ]
    grade(
        "friendly",
        learner,
        solution_friendly,
        inputs,
        hint="round down, so that the budget holds; but a group keeps one step at least, and one"
        " that keeps all its channels stays as it is",
    )
