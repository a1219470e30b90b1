"""Each check of notebook 13 passes its answer, and fails what learners write at first."""

import statistics

from course.exercises import n13
from graders import graded

WRONG = {
    n13.check_budget_met: [
        lambda kept, ratio: sum(kept) <= ratio * 68,  # channels, not MACs
        lambda kept, ratio: n13.chain_macs(kept) < ratio * 832,  # exactly on budget is met
        lambda kept, ratio: n13.chain_macs(kept) >= ratio * 832,
    ],
    n13.check_mean_and_spread: [
        lambda scores: (statistics.fmean(scores), statistics.pstdev(scores)),  # n, not n - 1
        lambda scores: statistics.fmean(scores),
        lambda scores: (statistics.median(scores), statistics.stdev(scores)),
        lambda scores: (statistics.fmean(scores), statistics.stdev(scores)),  # one run: raises
    ],
}
SOLUTIONS = {
    n13.check_budget_met: n13.solution_budget_met,
    n13.check_mean_and_spread: n13.solution_mean_and_spread,
}

test_the_answer_passes, test_typical_wrong_answers_fail = graded(SOLUTIONS, WRONG)


def test_the_answer_counts_what_its_hint_says():
    assert n13.chain_macs((4, 16, 16, 32)) == 4 * 16 + 16 * 16 + 16 * 32 == 832
