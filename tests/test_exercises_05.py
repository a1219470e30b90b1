"""Each check of notebook 05 passes its answer, and fails what learners write at first."""

from course.exercises import n05
from graders import graded

from dsa_core.budget import shift_to_budget

FLOORS = 1 / n05.resnet8_costs()[0].sizes.double()


def first_only(v, forms, budgets):
    return shift_to_budget(v, forms[0], budgets[0], FLOORS)[0]


def one_after_the_other(v, forms, budgets):
    for form, budget in zip(forms, budgets, strict=True):
        v = shift_to_budget(v, form, budget, FLOORS)[0]  # the second may climb over the first
    return v


WRONG = {
    n05.check_shift_to_all: [first_only, one_after_the_other],
}

test_the_answer_passes, test_typical_wrong_answers_fail = graded(n05, WRONG)
