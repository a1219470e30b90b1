"""Notebook 07: the check passes its solution and fails typical wrong answers."""

import numpy as np
from course.exercises import n07
from graders import graded

WRONG = {
    n07.check_cost_for: [
        lambda costs, scores, s: float(np.interp(s, scores, costs)),  # invents beyond the ends
        lambda costs, scores, s: costs[int(np.argmax(np.array(scores) >= s))],  # points only
        lambda costs, scores, s: n07.solution_cost_for(costs[::-1], scores[::-1], s),
    ],
}

test_the_answer_passes, test_typical_wrong_answers_fail = graded(
    {n07.check_cost_for: n07.solution_cost_for}, WRONG
)
