"""The exercise of notebook 01: what a keep ratio leaves."""

from functools import partial

from course.exercises.core import grade
from course.exercises.n13 import chain_macs


def solution_macs_left(image: int, widths: list[int], ratio: float) -> float:
    """Every layer but the first has fewer inputs as well as fewer outputs."""
    return chain_macs([image, *(ratio * width for width in widths)]) / chain_macs([image, *widths])


check_macs_left = partial(
    grade,
    solution_macs_left,
    [(3, [4, 4], 0.5), (3, [16, 16, 32, 64], 0.5), (3, [64, 8], 0.25), (1, [5], 0.6)],
    hint="a layer costs inputs times outputs; the inputs of the first layer are the channels"
    " of the image, and nobody prunes an image",
)
