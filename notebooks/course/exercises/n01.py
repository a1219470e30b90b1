"""The exercise of notebook 01: what a keep ratio leaves."""

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
