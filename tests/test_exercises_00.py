"""Notebook 00: the check passes its solution and fails typical wrong answers."""

from course.exercises import n00
from graders import graded

WRONG = {
    n00.check_conv_macs: [
        lambda i, o, k, h, w, s, g: i // g * o * k * (h // s) * (w // s),  # the window is a square
        lambda i, o, k, h, w, s, g: i // g * o * k**2 * (h // s) * (w // s),  # a row is lost
        lambda i, o, k, h, w, s, g: i * o * k**2 * -(-h // s) * -(-w // s),  # groups forgotten
    ],
}

test_the_answer_passes, test_typical_wrong_answers_fail = graded(
    {n00.check_conv_macs: n00.solution_conv_macs}, WRONG
)
