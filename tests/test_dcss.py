"""DCSS: the mixture of candidates is one mask, the budget is met, the choice becomes firm."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems_runs import allocate, found, graph8, search_config, search_data, trained
from pydantic import ValidationError
from torch import Tensor, nn

from dsa_core.budget import Budget, Cost, QuadraticForm, round_to_channels, uniform_ratio
from dsa_core.errors import BudgetError
from dsa_core.kernels.segments import places
from dsa_core.masked_weights import MaskedWeights
from dsa_core.masks import masked_call, top_channels
from dsa_core.methods import DCSS
from dsa_core.methods.dcss import ChoiceScheme
from dsa_core.methods.dcss_budget import Choices, Penalised, make_choices
from dsa_core.methods.dcss_choice import (
    Candidates,
    candidates_of,
    choice_probs,
    expected_ratios,
    staircase,
)
from dsa_core.methods.dcss_tilt import EDGE, bell_logits, ratio_slope, tilt, variance_gradient
from dsa_core.ranking import importance
from dsa_core.scheme import Problem

F64 = torch.float64


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(*counts: list[int], sizes: list[int]) -> Candidates:
    """Candidates as given, a list for each group; shorter rows repeat their last."""
    longest = max(map(len, counts))
    padded = torch.tensor([c + [c[-1]] * (longest - len(c)) for c in counts])
    valid = torch.tensor([[j < len(c) for j in range(longest)] for c in counts])
    return Candidates(padded, valid, padded.double() / torch.tensor(sizes)[:, None])


MIXED = rows([1, 2, 3, 4], [2, 16], [3, 5, 8], sizes=[4, 16, 8])


def some_logits(seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(3, 4, generator=draws(seed), dtype=F64)


def test_candidates_are_whole_channels_that_the_budget_allows():
    cost = Cost.of(graph8(), "macs")
    some = candidates_of(cost, Budget(macs=0.5), (0.05, 0.3, 0.5, 1.0))
    assert some.counts[0].tolist() == [1, 5, 8, 16]  # of 16: 0.8, 4.8, 8, 16, at least one
    assert torch.equal(some.least, some.counts[:, 0] / cost.sizes)
    assert bool((some.most == 1).all() and some.valid.all())
    budget = Budget(macs=0.5, divisor=8, floors={cost.names[0]: 0.6})
    some = candidates_of(cost, budget, (0.05, 0.3, 0.5, 1.0))
    assert some.counts[0].tolist() == [16] * 4  # 10 of 16 at least, in eights
    assert some.valid[0].tolist() == [True, False, False, False]
    assert some.counts[2].tolist() == [8, 16, 32, 32]  # of 32: 1.6, 9.6, 16, 32, in eights
    assert some.counts[4].tolist() == [8, 24, 32, 64]  # of 64: 3.2, 19.2, 32, 64


def test_probabilities_leave_out_what_is_no_candidate():
    flat = choice_probs(torch.zeros(3, 4, dtype=F64), MIXED, 1.0)
    torch.testing.assert_close(flat, MIXED.valid / torch.tensor([[4.0], [2.0], [3.0]], dtype=F64))
    wanted = torch.tensor([2.5 / 4, 9 / 16, (16 / 3) / 8], dtype=F64)
    torch.testing.assert_close(expected_ratios(flat, MIXED), wanted)
    sharp = choice_probs(some_logits(0), MIXED, 1e-3)
    torch.testing.assert_close(sharp.amax(1), torch.ones(3, dtype=F64))


def test_staircase_by_hand():
    """Channels 2, 0, 3, 1 by importance; keep 1, 2 or 4 of them with odds .2, .3, .5."""
    pi = torch.tensor([[0.2, 0.3, 0.5]], dtype=F64)
    ranks = torch.tensor([1, 3, 0, 2])
    mask = staircase(pi, torch.tensor([[1, 2, 4]]), ranks, torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(mask, torch.tensor([0.8, 0.5, 1.0, 0.5], dtype=F64))


def test_a_hard_choice_is_the_mask_of_the_most_important_channels():
    model, graph = trained(), graph8()
    cost = Cost.of(graph, "macs")
    some = candidates_of(cost, Budget(macs=0.5), DCSS().fractions)
    b = importance(model, graph)
    pick = torch.randint(0, 8, (len(cost.sizes), 1), generator=draws(5))
    pi = torch.zeros(some.counts.shape).scatter_(1, pick, 1.0)
    groups = torch.repeat_interleave(torch.arange(len(cost.sizes)), cost.sizes)
    mask = staircase(pi, some.counts, places(b, graph.offsets), groups)
    keep = top_channels(b, some.counts.gather(1, pick)[:, 0], graph)
    assert torch.equal(mask, keep.float())


@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.3, 1.0]), st.sampled_from([1.0, 30.0]))
def test_tilt_reaches_every_expected_ratio(seed, temperature, scale):
    share = torch.rand(3, dtype=F64, generator=draws(seed))
    target = MIXED.least + share * (MIXED.most - MIXED.least)
    logits = some_logits(seed, scale)
    tilted = tilt(logits, MIXED, target, temperature)
    pi = choice_probs(tilted, MIXED, temperature)
    torch.testing.assert_close(expected_ratios(pi, MIXED), target, rtol=0, atol=2 * EDGE)
    assert float(tilted.max()) <= 1e-12
    slopes = (tilted - logits).diff(dim=1) / MIXED.ratios.diff(dim=1)  # a tilt is linear in x
    torch.testing.assert_close(slopes[:, 1][[0, 2]], slopes[:, 0][[0, 2]], rtol=1e-9, atol=1e-8)
    if float((share * (1 - share)).min()) > 1e-3:
        torch.testing.assert_close(expected_ratios(pi, MIXED), target, rtol=0, atol=1e-12)


def test_tilt_stops_short_of_the_bounds_and_comes_back():
    start = some_logits(1)
    there = tilt(start, MIXED, MIXED.most, 1.0)
    alpha = expected_ratios(choice_probs(there, MIXED, 1.0), MIXED)
    assert bool((alpha < MIXED.most).all() and (alpha > MIXED.most - 1e-5).all())
    assert bool(there.isfinite().all())
    middle = (MIXED.least + MIXED.most) / 2
    there_and_back = choice_probs(tilt(there, MIXED, middle, 1.0), MIXED, 1.0)
    directly = choice_probs(tilt(start, MIXED, middle, 1.0), MIXED, 1.0)
    torch.testing.assert_close(there_and_back, directly)


def test_groups_with_one_candidate_are_left_alone():
    lone = rows([4], [1, 2, 4], sizes=[4, 4])
    tilted = tilt(torch.zeros(2, 3, dtype=F64), lone, torch.tensor([0.1, 0.6]), 1.0)
    pi = choice_probs(tilted, lone, 1.0)
    torch.testing.assert_close(expected_ratios(pi, lone), torch.tensor([1.0, 0.6], dtype=F64))
    assert tilt(torch.ones(1, 1), rows([4], sizes=[4]), torch.ones(1), 1.0).tolist() == [[0.0]]
    assert bool((variance_gradient(lone, torch.ones(2, dtype=F64))[0] == 0).all())
    assert float(ratio_slope(torch.ones(2, 3, dtype=F64), pi, lone)[0]) == 0


def test_bent_logits_decide_next_to_the_expected_ratio_and_flat_ones_at_an_end():
    some = rows(list(range(1, 9)), sizes=[8])

    def tilted(curvature: float, target: float, temperature: float) -> Tensor:
        wanted = torch.tensor([target], dtype=F64)
        logits = tilt(bell_logits(some, curvature), some, wanted, temperature)
        return choice_probs(logits, some, temperature)

    for target in (0.2, 0.4, 0.56, 0.8):
        flat, bent = (float(some.ratios[0, tilted(c, target, 0.1).argmax()]) for c in (0.0, 0.5))
        assert abs(bent - target) <= 1 / 16 + 1e-9  # half the distance of candidates
        assert flat in (1 / 8, 1.0)
    pi = tilted(0.5, 4.5 / 8, 0.5)
    deviation = float((pi * (some.ratios - 4.5 / 8).square()).sum().sqrt()) * 8
    assert deviation == pytest.approx(1.0, rel=0.02)  # h sqrt(temperature / curvature)


def test_pressure_is_the_gradient_of_the_variance():
    """Up to a constant in every group, and scaled to mean square 1."""
    pi = choice_probs(some_logits(4), MIXED, 1.0).requires_grad_()
    alpha = expected_ratios(pi, MIXED)
    variance = (pi * MIXED.ratios.square()).sum(1) - alpha.square()
    (gradient,) = torch.autograd.grad(variance.sum(), pi)
    centred = MIXED.centred(gradient)
    scale = (centred.square().sum(1) / MIXED.valid.sum(1)).sqrt()[:, None]
    torch.testing.assert_close(variance_gradient(MIXED, alpha.detach()), centred / scale)


def test_slope_along_the_tilt_is_a_finite_difference():
    logits, gain, step = some_logits(6), some_logits(7), 1e-5
    pi = choice_probs(logits, MIXED, 0.7)
    alpha = expected_ratios(pi, MIXED)

    def loss(target: Tensor) -> Tensor:
        """sum_j gain_j pi_j of every group, tilted to the target."""
        return (choice_probs(tilt(logits, MIXED, target, 0.7), MIXED, 0.7) * gain).sum(1)

    wanted = (loss(alpha + step) - loss(alpha - step)) / (2 * step)
    torch.testing.assert_close(ratio_slope(gain, pi, MIXED), wanted, rtol=1e-6, atol=1e-8)


EIGHT = rows(*[list(range(1, 9))] * 4, sizes=[8] * 4)
SHARES = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=F64)
NEED = torch.tensor([0.1, 0.02, 0.06, 0.01], dtype=F64)
WORTH = 0.5


def toy() -> tuple[QuadraticForm, Tensor, Tensor]:
    """Cost sum_k s_k alpha_k and loss sum_kj pi_kj need_k / x_kj.

    With the multiplier WORTH each group's best candidate minimises need_k / x + WORTH s_k x, by
    itself. A budget that is the cost of these candidates makes them the answer: any other choice
    that costs no more has a higher loss (weak duality).
    """
    form = QuadraticForm(torch.zeros(4, 4, dtype=F64), SHARES, 0.0)
    losses = NEED[:, None] / EIGHT.ratios
    best = (losses + WORTH * SHARES[:, None] * EIGHT.ratios).argmin(1)
    return form, losses, best


def ratios_at(places: Tensor) -> Tensor:
    return EIGHT.ratios.gather(1, places[:, None])[:, 0]


def descend(choices: Choices, budget: float, *, noise: float, start: float) -> Tensor:
    """200 steps, the budget going from `start` to `budget` in the first half."""
    losses, draw = toy()[1], draws(9)
    for step in range(200):
        wanted = start + (budget - start) * min(1.0, step / 100)
        gain = losses + noise * torch.randn(4, 8, dtype=F64, generator=draw)
        choices.step(gain, wanted, temperature=0.1 ** (step / 199), step_scale=1 - step / 200)
        if not isinstance(choices.ratios, Penalised):
            cost = float(choices.ratios.cost(choices.ratios.keep_ratios))
            assert cost == pytest.approx(wanted, rel=1e-9)
        reached = expected_ratios(choices.pi, choices.candidates)
        torch.testing.assert_close(reached, choices.ratios.keep_ratios, rtol=0, atol=2 * EDGE)
    return choices.pi


@pytest.mark.parametrize("start", [1.0, 0.15])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_admm_finds_the_answer_from_both_sides(start, noise):
    """The loss is within 3 % of the optimum (at most 1 % was seen over 6 draws of the noise)."""
    form, losses, best = toy()
    budget = float(form(ratios_at(best)))
    choices = make_choices(form, EIGHT, budget, DCSS())
    pi = descend(choices, budget, noise=noise, start=start)
    assert float(form(choices.ratios.keep_ratios)) == pytest.approx(budget, rel=1e-9)
    optimum = float(losses.gather(1, best[:, None]).sum())
    assert optimum * 0.999 < float((pi * losses).sum()) < 1.03 * optimum
    entropy = -torch.xlogy(pi, pi).sum(1)
    assert float(entropy.max()) < 0.72  # log 2 and a little: at most two candidates are left
    if (noise, start) == (0, 1):
        assert torch.equal(pi.argmax(1), best)


def test_groups_settle_on_candidates_and_the_last_takes_up_the_rest():
    """Without a signal all ratios would be 0.4, between the candidates 3 and 4 of 8."""
    form, _, _ = toy()
    ends = {}
    for settled in (0, 3):
        choices = make_choices(form, EIGHT, 0.4, DCSS())
        for step in range(100):
            clock = {"temperature": 0.1 ** (step / 99), "settled": settled * (step >= 70)}
            choices.step(torch.zeros(4, 8, dtype=F64), 0.4 ** min(1.0, step / 50), **clock)
        assert float(form(choices.ratios.keep_ratios)) == pytest.approx(0.4, rel=1e-9)
        ends[settled] = choices
    assert float(torch.special.entr(ends[0].pi).sum(1).min()) > 0.4
    entropy = torch.special.entr(ends[3].pi).sum(1)
    assert entropy.argmax() == 2
    assert float(entropy.sort().values[2]) < 0.01
    wanted = torch.tensor([0.375, 0.375, 0.4375, 0.5], dtype=F64)  # the third takes up the rest
    torch.testing.assert_close(ends[3].ratios.keep_ratios, wanted, rtol=0, atol=1e-3)


def test_groups_settle_evenly_towards_the_end_and_none_beyond_it():
    model, graph = trained(), graph8()
    method = DCSS(settle_from=0.5)
    scheme = ChoiceScheme(Problem(model, graph, Budget(macs=0.5), 20, 0, 0, method), method)
    last = len(scheme.counts_here) - 1
    settled = [scheme.settled_at(part) for part in (0, 0.5, 0.75, 1, 1.4)]
    assert settled == [0, 0, round(last / 2), last, last]
    late = DCSS(settle_from=1)
    scheme = ChoiceScheme(Problem(model, graph, Budget(macs=0.5), 20, 0, 0, late), late)
    assert [scheme.settled_at(part) for part in (1, 1.4)] == [0, 0]


def test_a_search_settles_its_groups():
    model, graph, ends = trained(), graph8(), {}
    for settle_from in (0.5, 1.0):
        method = DCSS(settle_from=settle_from)
        scheme = ChoiceScheme(Problem(model, graph, Budget(macs=0.45), 200, 0, 0, method), method)
        for done in range(1, 201):
            scheme.update(done, torch.zeros_like(scheme.total))
        ends[settle_from] = scheme.notes()["dcss_entropy_nats"]
    assert ends[0.5] < 0.5 * ends[1.0]


def test_the_penalty_rests_where_the_price_is_lambda():
    """Where it ends follows lambda, and not the budget; with the right lambda it is the answer."""
    form, _, best = toy()
    budget, ends = float(form(ratios_at(best))), []
    for penalty in (0.02, WORTH * budget, 2.0):  # lambda / F = WORTH at the answer
        choices = make_choices(form, EIGHT, 0.01, DCSS(budget="penalty", penalty=penalty))
        descend(choices, 0.3, noise=0, start=1.0)
        ends.append(choices.ratios.keep_ratios)
    assert ends[0].tolist() == [1.0] * 4
    # lambda / F depends on where it is: a group or two may rest one candidate away
    assert float((ends[1] - ratios_at(best)).abs().max()) < 0.13
    assert float(form(ends[1])) == pytest.approx(budget, rel=0.15)
    torch.testing.assert_close(ends[2], EIGHT.least)


def test_without_a_signal_the_ratios_are_uniform_and_the_choice_is_firm():
    form, _, _ = toy()
    choices = make_choices(form, EIGHT, 0.5, DCSS())
    for step in range(40):
        budget, zero = 0.5 ** min(1.0, step / 20), torch.zeros(4, 8, dtype=F64)
        residuals = choices.step(zero, budget, temperature=0.1 ** (step / 39))
    wanted = uniform_ratio(form, 0.5, EIGHT.least)
    torch.testing.assert_close(choices.ratios.keep_ratios, wanted, rtol=0, atol=1e-9)
    assert choices.pi.argmax(1).tolist() == [3] * 4  # 4 of 8
    assert float(choices.pi.amax(1).min()) > 0.9
    assert (residuals.price, residuals.price_spread) == (0, 0)


@pytest.mark.parametrize("factor", [1.0, 1000.0])
def test_the_first_step_moves_the_logits_by_the_signal_over_its_own_size(factor):
    form, losses, _ = toy()
    choices = make_choices(form, EIGHT, 0.5, DCSS(firmness=0.0))
    choices.step(factor * losses, 0.5, temperature=0.5)
    d = losses - losses.mean(1, keepdim=True)
    moved = bell_logits(EIGHT, 0.5) - 0.1 * d / d.square().mean(1, keepdim=True).sqrt()
    logits = tilt(moved, EIGHT, choices.ratios.keep_ratios, 0.5)
    torch.testing.assert_close(choices.pi, choice_probs(logits, EIGHT, 0.5))


def test_without_pressure_a_group_mixes_the_smallest_with_the_largest():
    """A loss that half of every channel satisfies: (m - 1/2)^2 for each channel, down from dense.

    The mask may be 1/2 on all channels, or 1 on half of them; the former costs nothing in loss.
    """
    form, ranks = QuadraticForm(torch.zeros(1, 1, dtype=F64), torch.ones(1, dtype=F64), 0.0), 8
    some, ends = rows(list(range(1, 9)), sizes=[8]), {}
    for firmness in (0.0, 2.0):
        choices = make_choices(form, some, 0.5, DCSS(firmness=firmness))
        for step in range(150):
            pi = choices.pi.requires_grad_()
            places = torch.zeros(ranks, dtype=torch.int64)
            mask = staircase(pi, some.counts, torch.arange(ranks), places)
            (gain,) = torch.autograd.grad((mask - 0.5).square().sum(), pi)
            choices.step(gain, 0.5, temperature=0.1 ** (step / 149))
        ends[firmness] = choices.pi[0]
    assert float(ends[0.0][0] + ends[0.0][-1]) > 0.9
    assert float(ends[2.0][2:5].sum()) > 0.99


def test_a_budget_below_the_smallest_candidates_is_refused():
    form, _, _ = toy()
    with pytest.raises(BudgetError, match=r"0\.1 .*smallest.*0\.125.*fraction below 0\.125"):
        make_choices(form, EIGHT, 0.1, DCSS())


def test_counts_are_the_likeliest_candidates_repaired():
    allocation = found("dcss")
    chosen = torch.tensor([int(c) for c in allocation.notes["dcss_chosen"].split()])
    cost = Cost.of(graph8(), "macs")
    allowed = candidates_of(cost, Budget(macs=0.5), DCSS().fractions).counts
    assert bool((allowed == chosen[:, None]).any(1).all())
    repaired = round_to_channels(chosen / cost.sizes, cost, Budget(macs=0.5))
    assert torch.equal(allocation.counts, repaired)
    moved = int((repaired - chosen).abs().sum())
    assert allocation.notes["dcss_channels_moved"] == moved
    assert allocation.notes["dcss_chosen_cost_ratio"] == pytest.approx(cost.at(chosen) / cost.dense)
    assert 0 < allocation.notes["dcss_entropy_nats"] < math.log(8)
    figures = [u.figures for u in allocation.updates[1:]]
    inexact = [f["inexactness"] for f in figures]
    assert inexact[-1] < 0.7 * max(inexact)
    temperatures = [f["temperature"] for f in figures]  # geometric, from 1 to 0.1 in 20 steps
    assert temperatures == pytest.approx([0.1 ** (min(t, 19) / 19) for t in range(2, 21, 2)])


def test_the_penalty_keeps_what_it_chose_and_says_whether_the_budget_is_met():
    config = search_config(ratio_every=1, dcss=DCSS(budget="penalty", penalty=0.02))
    allocation = allocate("dcss", trained(), Budget(macs=0.5), config)
    chosen = [int(c) for c in allocation.notes["dcss_chosen"].split()]
    assert allocation.counts.tolist() == chosen
    assert allocation.notes["dcss_channels_moved"] == 0
    assert allocation.met == (allocation.whole_ratio("macs") <= 0.5)
    assert allocation.whole_ratio("macs") == allocation.notes["dcss_chosen_cost_ratio"]
    assert not allocation.met  # 20 updates from dense do not reach one half


def test_the_gradient_is_that_of_the_loss_under_the_mixture():
    """Free or on a held-out batch: those of the definition, in float64."""
    model, graph = trained().double().train(), graph8()
    problem = Problem(model, graph, Budget(macs=0.5), 20, 0, 0, DCSS())
    scheme = ChoiceScheme(problem, DCSS())
    x, y = next(search_data().ratios.forever())
    weights = MaskedWeights(dict(model.named_parameters()), scheme.sites, scheme.size)

    def loss() -> Tensor:
        return nn.functional.cross_entropy(model(x.double()), y)

    some = candidates_of(Cost.of(graph, "macs"), Budget(macs=0.5), DCSS().fractions)
    groups = torch.repeat_interleave(torch.arange(len(graph.sizes)), graph.sizes)
    pi = scheme.choices.pi.requires_grad_()
    mask = staircase(pi, some.counts, places(importance(model, graph), graph.offsets), groups)
    value = nn.functional.cross_entropy(masked_call(model, graph, mask, x.double()), y)
    (wanted,) = torch.autograd.grad(value, pi)

    seen: list[Tensor] = []
    scheme.update = lambda done, gain: seen.append(gain) or {}
    found = scheme.held_out_step(0, weights, loss)["loss"]
    assert found == pytest.approx(float(value.detach()), rel=1e-5)
    weights.put_on(scheme.mask(0))
    loss().backward()
    gradient = weights.turn()
    weights.take_off()
    for step in (0, 1):  # the same gradient twice, so that the mean is each of them
        scheme.drawn = scheme.mixture(step)
        scheme.step(step, gradient, lr=0.1)
    assert len(seen) == 2
    for gain in seen:
        torch.testing.assert_close(gain, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("fractions", [(1.0,), (0.5, 0.9), (0.0, 1.0), (0.5, 0.2, 1.0)])
def test_fractions_rise_to_one(fractions):
    with pytest.raises(ValidationError, match="fractions"):
        DCSS(fractions=fractions)


def test_slope_of_a_decided_group_is_that_to_its_neighbour():
    some = rows([1, 2, 4], sizes=[4])
    pi = choice_probs(tilt(torch.zeros(1, 3, dtype=F64), some, some.most, 1.0), some, 1.0)
    slope = ratio_slope(torch.tensor([[9.0, 5.0, 2.0]], dtype=F64), pi, some)
    assert float(slope) == pytest.approx((2 - 5) / (1 - 0.5), rel=0.01)


def test_under_a_penalty_no_smaller_budget_was_followed():
    found = allocate(
        "dcss", trained(), Budget(macs=0.3), search_config(dcss=DCSS(budget="penalty"))
    )
    with pytest.raises(BudgetError, match="followed no falling budget"):
        found.at(macs=0.9)
