"""Every check refuses what learners write at first; what is right another way passes.

That it passes the answer of the course is seen where the solutions run: notebooks/test_lint.py.
"""

import itertools
import math
import statistics

import numpy as np
import pytest
import torch
from course.exercises import n00, n01, n02, n03, n04, n05, n06, n07, n08, n09, n10, n11, n12, n13
from course.sensitivity import correlate
from torch import nn

from dsa_core.budget import shift_to_budget
from dsa_core.methods.dcss_choice import Candidates, staircase
from dsa_core.methods.dcss_tilt import tilt
from dsa_core.surgery.verify import count_macs


def first_match_only(n, pairs):
    """Looks one step far: a - b - c leaves c with b."""
    label = list(range(n))
    for i, j in pairs:
        label[max(i, j)] = min(i, j)
    return label


def moves_one_id(n, pairs):
    """Gives a new label to the id, not to its whole class."""
    label = list(range(n))
    for i, j in pairs:
        label[i] = label[j] = min(label[i], label[j])
    return label


def two_sweeps(n, pairs):
    """Goes over the pairs twice, not until nothing changes."""
    label = list(range(n))
    for i, j in pairs * 2:
        label[i] = label[j] = min(label[i], label[j])
    return label


def last_crossing(costs, scores, wanted):
    """Does not stop where the line reaches the score first."""
    found = costs[0] if scores[0] >= wanted else None
    for (c0, s0), (c1, s1) in itertools.pairwise(zip(costs, scores, strict=True)):
        if s0 < wanted <= s1 and scores[0] < wanted:
            found = c0 + (c1 - c0) * (wanted - s0) / (s1 - s0)
    return found


def land_from_above_only(log_ratios, cost, budget):
    """The mistake of "at most": never grows."""
    if cost(log_ratios.exp()) <= budget:
        return log_ratios
    return n04.solution_land(log_ratios, cost, budget)


def one_after_the_other(v, forms, budgets):
    floors = 1 / n05.resnet8_costs()[0].sizes.double()
    for form, budget in zip(forms, budgets, strict=True):
        v = shift_to_budget(v, form, budget, floors)[0]  # the second may climb over the first
    return v


SLIPS = {
    n00.check_conv_macs: [
        lambda i, o, k, h, w, s, g: i // g * o * k * (h // s) * (w // s),  # the window is a square
        lambda i, o, k, h, w, s, g: i // g * o * k**2 * (h // s) * (w // s),  # a row is lost
        lambda i, o, k, h, w, s, g: i * o * k**2 * -(-h // s) * -(-w // s),  # groups forgotten
    ],
    n01.check_macs_left: [
        lambda image, widths, ratio: ratio,
        lambda image, widths, ratio: ratio**2,
    ],
    n02.check_united: [
        first_match_only,
        moves_one_id,
        two_sweeps,
        lambda n, pairs: list(range(n)),
    ],
    n02.check_kept_after_concat: [
        lambda sizes, kept: [c for part in kept for c in part],
        # offsets from what is left, not from what was there
        lambda sizes, kept: [
            sum(map(len, kept[:i])) + c for i, part in enumerate(kept) for c in part
        ],
    ],
    n03.check_log_threshold: [
        lambda b, k, beta2: math.exp(n03.log_threshold(b, k, beta2)),
        # the k-th largest: where the mask would turn if it were hard
        lambda b, k, beta2: b.log().sort(descending=True).values[int(k) - 1],
    ],
    n04.check_land: [land_from_above_only, lambda v, cost, budget: v + math.log(budget)],
    n05.check_shift_to_all: [
        lambda v, forms, budgets: one_after_the_other(v, forms[:1], budgets[:1]),
        one_after_the_other,
    ],
    n06.check_spearman: [
        lambda x, y: correlate(x, y).pearson,
        lambda x, y: correlate(x.argsort(), y.argsort()).pearson,
    ],
    n07.check_cost_for: [
        lambda costs, scores, s: float(np.interp(s, scores, costs)),  # invents beyond the ends
        lambda costs, scores, s: costs[int(np.argmax(np.array(scores) >= s))],  # points only
        lambda costs, scores, s: n07.solution_cost_for(costs[::-1], scores[::-1], s),
        last_crossing,
    ],
    n08.check_staircase: [
        lambda pi, c, n: pi.cumsum(0)[:n],
        lambda pi, c, n: (pi[:, None] * (torch.arange(n) <= c[:, None])).sum(0),
        lambda pi, c, n: (torch.arange(n) < float(pi @ c.double())).double(),
    ],
    n08.check_tilt: [
        lambda pi, x, target: (pi.log() + target - float(pi @ x)).softmax(0),  # changes nothing
        lambda pi, x, target: n08.solution_tilt(pi, x, min(target, float(pi @ x))),  # only down
    ],
    n09.check_closed_mask: [
        lambda s, k, eps: torch.sigmoid((2 * s - 1) / eps),  # they need not sum to k
        lambda s, k, eps: n09.solution_closed_mask(s, k, 2 * eps),
        lambda s, k, eps: k * torch.softmax(s / eps, 0),
    ],
    n10.check_shrink: [
        lambda a, h, lam: a.sign() * (a.abs() - lam / h[:, None]).relu(),
        lambda a, h, lam: a * (1 - lam / (h * a.norm(dim=1)))[:, None],
        lambda a, h, lam: a * (1 - lam / a.norm(dim=1)).relu()[:, None],
        lambda a, h, lam: a * (h / (h + lam))[:, None],
    ],
    n11.check_macs_for: [
        lambda share, speedup: 1 / speedup,  # only convolutions get faster
        lambda share, speedup: 1 / (share * speedup),
        lambda share, speedup: (1 / speedup - (1 - share)) / share,  # may be negative
        lambda share, speedup: max(0.0, (1 / speedup - (1 - share)) / share),
    ],
    n12.check_seeds: [
        lambda d, s: math.ceil((1.96 * s / d) ** 2),  # of one mean
        lambda d, s: 2 * (1.96 * s / d) ** 2,
        lambda d, s: math.floor(2 * (1.96 * s / d) ** 2),
        lambda d, s: math.ceil(2 * 1.96 * s / d),
    ],
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


@pytest.mark.parametrize(
    ("check", "slip"), [(check, slip) for check, slips in SLIPS.items() for slip in slips]
)
def test_a_typical_slip_is_refused(check, slip):
    with pytest.raises(AssertionError, match="hint: "):
        check(slip)


def counted(i, o, k, h, w, s, g):
    layer = nn.Conv2d(i, o, k, s, padding=k // 2, groups=g)
    return count_macs(layer, torch.zeros(1, i, h, w))


def tilt_by_library(pi, x, target):
    counts = (8 * x).round().long()[None]
    some = Candidates(counts, torch.ones_like(counts).bool(), x[None])
    return tilt(pi.log()[None], some, torch.tensor([target]).double(), 1.0).softmax(1)[0]


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        (n00.check_conv_macs, counted),
        (
            n08.check_staircase,
            lambda pi, c, n: staircase(pi[None], c[None], torch.arange(n), torch.zeros(n).long()),
        ),
        (n08.check_tilt, tilt_by_library),
        # a - its projection onto the ball of radius lambda / h (Moreau)
        (n10.check_shrink, lambda a, h, lam: a - (a * h[:, None]).renorm(2, 0, lam) / h[:, None]),
        (
            n12.check_seeds,
            lambda d, s: next(n for n in itertools.count(1) if 1.96 * s * (2 / n) ** 0.5 < d),
        ),
    ],
)
def test_the_answer_found_in_another_way_passes(check, answer, capsys):
    check(answer)
    assert "right on all" in capsys.readouterr().out


def test_answers_by_hand():
    assert n01.solution_macs_left(3, [4, 4], 0.5) == pytest.approx((3 * 2 + 2 * 2) / 28)
    assert n11.solution_macs_for(0.8, 1.5) == pytest.approx((1 / 1.5 - 0.2) / 0.8)
    assert n13.chain_macs((4, 16, 16, 32)) == 4 * 16 + 16 * 16 + 16 * 32 == 832
