"""Each check of notebook 05 passes its answer, and fails what learners write at first."""

import itertools
import statistics

import pytest
from course.exercises import n05


def zipped(grid, seeds):
    columns = [*grid.values(), seeds]
    return [dict(zip([*grid, "seed"], point, strict=True)) for point in zip(*columns, strict=False)]


WRONG = {
    n05.check_sharpness: [
        lambda step, steps, first, last: first + (last - first) * step / steps,  # linear
        lambda step, steps, first, last: first * (last / first) ** step,  # far too fast
        lambda step, steps, first, last: last * (first / last) ** (step / steps),  # falls
    ],
    n05.check_budget_met: [
        lambda kept, ratio: sum(kept) <= ratio * 68,  # channels, not MACs
        lambda kept, ratio: n05.chain_macs(kept) < ratio * 832,  # exactly on budget is met
        lambda kept, ratio: n05.chain_macs(kept) >= ratio * 832,
    ],
    n05.check_mean_and_spread: [
        lambda scores: (statistics.fmean(scores), statistics.pstdev(scores)),  # n, not n - 1
        lambda scores: statistics.fmean(scores),
        lambda scores: (statistics.median(scores), statistics.stdev(scores)),
        lambda scores: (statistics.fmean(scores), statistics.stdev(scores)),  # one run: raises
    ],
    n05.check_runs_of: [
        zipped,
        lambda grid, seeds: [
            dict(zip(grid, p, strict=True)) for p in itertools.product(*grid.values())
        ],
        lambda grid, seeds: {"seed": seeds, **grid},
    ],
}
SOLUTIONS = {
    n05.check_sharpness: n05.solution_sharpness,
    n05.check_budget_met: n05.solution_budget_met,
    n05.check_mean_and_spread: n05.solution_mean_and_spread,
    n05.check_runs_of: n05.solution_runs_of,
}


@pytest.mark.parametrize("check", SOLUTIONS, ids=lambda check: check.__name__)
def test_the_answer_passes(check, capsys):
    check(SOLUTIONS[check])
    assert "right on all" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("check", "wrong"), [(check, wrong) for check, several in WRONG.items() for wrong in several]
)
def test_typical_wrong_answers_fail(check, wrong):
    with pytest.raises(AssertionError, match="hint: "):
        check(wrong)


def test_the_order_of_the_runs_is_free():
    n05.check_runs_of(lambda grid, seeds: n05.solution_runs_of(grid, seeds)[::-1])


def test_the_answer_counts_what_its_hint_says():
    assert n05.chain_macs((4, 16, 16, 32)) == 4 * 16 + 16 * 16 + 16 * 32 == 832
    assert n05.solution_sharpness(5, 10, 5.0, 20.0) == pytest.approx(10.0)
