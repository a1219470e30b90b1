"""The exercise of notebook 00: what a convolution costs."""

import math
from functools import partial

from course.exercises.core import grade


def solution_conv_macs(
    c_in: int, c_out: int, kernel: int, height: int, width: int, stride: int, groups: int
) -> int:
    """MACs of a convolution on one image of height x width, padded to keep the size at stride 1."""
    places = math.ceil(height / stride) * math.ceil(width / stride)
    return c_in // groups * c_out * kernel**2 * places


check_conv_macs = partial(
    grade,
    solution_conv_macs,
    [(3, 16, 5, 32, 24, 1, 1), (16, 4, 3, 7, 9, 2, 1), (12, 12, 3, 8, 10, 3, 12)],
    hint="each computed place of each of the c_out channels is a sum over c_in / groups channels "
    "and a window of kernel x kernel; with stride 2, 7 rows become 4",
)
