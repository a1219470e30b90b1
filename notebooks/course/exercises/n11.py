"""The exercise of notebook 11: how far to prune for a speed-up."""

from functools import partial

from course.exercises.core import grade


def solution_macs_for(share: float, speedup: float) -> float | None:
    """Amdahl's law, solved for the MACs left; None if what has no MACs takes too long already."""
    left = (1 / speedup - (1 - share)) / share
    return left if left > 0 else None


check_macs_for = partial(
    grade,
    solution_macs_for,
    [(1.0, 2.0), (0.8, 1.5), (0.9, 3.0), (0.5, 2.5), (0.7, 1.0)],
    hint="the time left is share * macs_left + (1 - share), relative to the dense network; it"
    " must be 1 / speedup. Can the first part be as small as that asks?",
)
