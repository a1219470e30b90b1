"""Keep ratios under a budget: both optimizers on problems with known answers."""

import io
import math
from collections.abc import Callable

import pytest
import torch
from problems_budget import (
    Problem,
    all_problems,
    chain_cost,
    friendly_problem,
    linear_cost,
    linear_problem,
    search,
)
from torch import Tensor
from torch.testing import assert_close

from dsa_core import budget as admm
from dsa_core.errors import BudgetError, ConfigError

PROBLEMS = all_problems()


def log_error(alpha: Tensor, wanted: Tensor) -> float:
    """Largest error of a log ratio: 0.01 is 1 % of the ratio."""
    return float((alpha / wanted).log().abs().max())


def noisy(problem: Problem, noise: float) -> Callable[[Tensor], Tensor]:
    """The gradient plus normal noise of `noise` times the gradient's mean size in every group."""
    generator = torch.Generator().manual_seed(0)

    def gradient(alpha: Tensor) -> Tensor:
        exact = problem.gradient(alpha)
        random = torch.randn(exact.shape, generator=generator, dtype=torch.float64)
        return exact + noise * exact.abs().mean() * random

    return gradient


@pytest.mark.parametrize("name", PROBLEMS)
def test_priced_finds_the_optimum_and_equal_prices(name: str) -> None:
    problem = PROBLEMS[name]
    optimizer = admm.make_optimizer("priced", problem.cost, floors=problem.floors)
    residuals = search(optimizer, problem.gradient, problem.budget, steps=600)
    assert log_error(optimizer.keep_ratios, problem.optimum) < 2e-3  # the step length's last tail
    assert residuals.price_spread / abs(residuals.price) < 2e-3
    # lambda = 1 in `problem_at`, so the price is -F = -B.
    if name != "linear":
        assert residuals.price == pytest.approx(-problem.budget, rel=2e-3)
    assert abs(float(problem.cost(optimizer.keep_ratios)) - problem.budget) < 1e-12


@pytest.mark.parametrize("ratios", [[0.12] * 6, [0.1, 1.0, 0.1, 1.0, 1.0, 0.2]])
def test_priced_finds_the_optimum_from_other_starts(ratios: list[float]) -> None:
    problem, start = PROBLEMS["clipped"], torch.tensor(ratios)
    optimizer = admm.make_optimizer("priced", problem.cost, floors=problem.floors, start=start)
    search(optimizer, problem.gradient, problem.budget, steps=600, first=problem.budget)
    assert log_error(optimizer.keep_ratios, problem.optimum) < 5e-3


@pytest.mark.parametrize("name", PROBLEMS)
def test_priced_stands_noise(name: str) -> None:
    problem = PROBLEMS[name]
    optimizer = admm.make_optimizer("priced", problem.cost, floors=problem.floors)
    search(optimizer, noisy(problem, 0.3), problem.budget, steps=600)
    # the cheapest group of "quadratic" has 1/40 of the largest gradient: mostly noise
    assert log_error(optimizer.keep_ratios, problem.optimum) < 0.15


@pytest.mark.parametrize("start", [0.15, 0.6, 1.0])
def test_priced_meets_the_budget_from_both_sides(start: float) -> None:
    problem = friendly_problem()
    first = torch.full((4,), start)
    optimizer = admm.make_optimizer("priced", problem.cost, floors=problem.floors, start=first)
    below = float(problem.cost(first.double())) < problem.budget
    assert below == (start < 0.2 or start == 0.6)
    for _ in range(3):
        optimizer.step(problem.gradient(optimizer.keep_ratios), problem.budget)
        assert float(problem.cost(optimizer.keep_ratios)) == pytest.approx(problem.budget, rel=1e-9)


@pytest.mark.parametrize("price", [0.0, -3.0])
def test_equal_prices_give_the_uniform_allocation(price: float) -> None:
    """No signal, or a loss proportional to the cost: roundings are not mistaken for a signal."""
    cost = chain_cost([16, 16, 32, 32, 64])
    floors = torch.tensor([0.05, 0.7, 0.05, 0.05, 0.4] if price == 0.0 else [0.01] * 5)
    optimizer = admm.make_optimizer("priced", cost, floors=floors)
    search(optimizer, lambda alpha: price * cost.gradient(alpha), 0.35, steps=100)
    uniform = admm.uniform_ratio(cost, 0.35, floors)
    rtol = 1e-12 if price == 0.0 else 1e-6
    assert_close(optimizer.keep_ratios, uniform, rtol=rtol, atol=0.0)


def test_noise_of_mean_zero_wanders_no_further_than_its_law() -> None:
    """Log ratios walk at random: standard deviation about lr sqrt(sum step_scale^2); B is kept."""
    cost, floors, steps = chain_cost([16, 16, 32, 32, 64]), torch.full((5,), 0.01), 200
    uniform, generator = admm.uniform_ratio(cost, 0.35, floors), torch.Generator().manual_seed(0)

    def noise(alpha: Tensor) -> Tensor:
        return torch.randn(alpha.shape, generator=generator, dtype=torch.float64)

    deviations = []
    for _ in range(4):
        optimizer = admm.make_optimizer("priced", cost, floors=floors)
        search(optimizer, noise, 0.35, steps=steps)
        deviations.append((optimizer.keep_ratios / uniform).log())
    law = 0.05 * math.sqrt(sum(admm.step_scale_at(s, steps) ** 2 for s in range(steps)))
    spread = float(torch.stack(deviations).square().mean().sqrt())
    assert 0.4 * law < spread < 1.2 * law  # 20 values; ratios cut at 1 wander less


@pytest.mark.parametrize("factor", [2.0**-30, 2.0**20, 1e5])
def test_priced_does_not_depend_on_the_scale_of_the_loss(factor: float) -> None:
    problem = PROBLEMS["clipped"]
    answers = []
    for scale in (1.0, factor):
        optimizer = admm.make_optimizer("priced", problem.cost, floors=problem.floors)
        search(optimizer, lambda a, s=scale: s * problem.gradient(a), problem.budget, steps=100)
        answers.append(optimizer.keep_ratios)
    assert_close(answers[1], answers[0], rtol=1e-9, atol=0.0)


def test_one_noisy_group_does_not_silence_the_others() -> None:
    """Group 0 costs nearly nothing: the noise of its price is 300 times that of its gradient."""
    problem = linear_problem([0.01, 1, 1, 1], [0.01, 0.4, 0.1, 0.2], 0.4)
    generator = torch.Generator().manual_seed(0)

    def gradient(alpha: Tensor) -> Tensor:
        noise = torch.zeros_like(alpha)
        noise[0] = 0.3 * torch.randn((), generator=generator, dtype=torch.float64)
        return problem.gradient(alpha) + noise

    optimizer = admm.make_optimizer("priced", problem.cost, floors=problem.floors)
    search(optimizer, gradient, problem.budget, steps=300)
    assert log_error(optimizer.keep_ratios[1:], problem.optimum[1:]) < 0.1


def test_a_group_held_long_at_its_bound_leaves_it_when_its_price_turns() -> None:
    """No wind-up: after 400 steps against it the group is free once the average has turned."""
    cost, floors = linear_cost([1, 1, 1]), torch.full((3,), 0.05, dtype=torch.float64)
    towards = torch.tensor([-9.0, -1.0, -1.0], dtype=torch.float64)
    for sign, bound in ((1.0, 1.0), (-1.0, 0.05)):
        optimizer = admm.make_optimizer("priced", cost, floors=floors)
        for _ in range(400):
            optimizer.step(sign * towards, 0.5)
        assert float(optimizer.keep_ratios[0]) == pytest.approx(bound, rel=1e-15)
        for _ in range(40):  # memory of the average: 1 / (1 - 0.97) = 33 steps
            optimizer.step(-sign * towards, 0.5)
        assert abs(math.log(float(optimizer.keep_ratios[0]) / bound)) > 0.1


def test_the_dual_of_a_clipped_group_is_the_multiplier_of_its_bound() -> None:
    problem = PROBLEMS["clipped"]
    optimizer = admm.make_optimizer("priced", problem.cost, floors=problem.floors)
    search(optimizer, problem.gradient, problem.budget, steps=300)
    optimizer.step(problem.gradient(optimizer.keep_ratios), problem.budget, step_scale=1.0)
    dual = optimizer.state_dict()["dual"] / 0.05  # rho u
    free = (problem.optimum > problem.floors) & (problem.optimum < 1)
    relative = dual - dual[free].mean()
    # push = 2 doubles (halves) c: price -2 (-1/2) against -1, always of one sign: d = -1 (+1).
    wanted = torch.where(problem.optimum >= 1, 1.0, torch.where(free, 0.0, -1.0)).double()
    assert_close(relative, wanted, rtol=0.0, atol=0.15)  # averages still remember the annealing


def test_paper_updates_are_the_stated_equations() -> None:
    """One update by hand: one z step (Adam's first step is z_lr sign(slope)), both duals."""
    cost = linear_cost([1, 3])
    given_settings = admm.PaperSettings(
        rho1=0.5, rho2=0.2, loss_scale=10.0, z_steps=1, theta_lr=0.1, clip_norm=None,
        only_shrink=False, stop_at_budget=False,
    )  # fmt: skip
    start = torch.tensor([0.8, 0.6], dtype=torch.float64)
    optimizer = admm.make_optimizer(
        "paper", cost, floors=torch.full((2,), 0.01), start=start, settings=given_settings
    )
    state = optimizer.state_dict()
    state["consensus_dual"] = torch.tensor([0.3, -0.1], dtype=torch.float64)
    state["z"] = z = torch.tensor([1.0, 0.1], dtype=torch.float64)
    state["budget_dual"] = torch.tensor(0.7, dtype=torch.float64)
    optimizer.load_state_dict(state)
    gradient = torch.tensor([-0.2, 0.1], dtype=torch.float64)
    u2, theta = state["consensus_dual"], start.logit()

    optimizer.step(gradient, 0.5)
    theta = theta - 0.1 * (10 * gradient * start * (1 - start) + u2 + 0.2 * (theta - z))
    s = z.sigmoid()
    excess = float(cost(s)) - 0.5
    assert excess > 0
    z_slope = (0.7 + 0.5 * excess) * cost.q * s * (1 - s) - u2 - 0.2 * (theta - z)
    z = z - 1e-3 * z_slope.sign()
    after = optimizer.state_dict()
    assert_close(after["theta"], theta)
    assert_close(after["z"], z, rtol=0.0, atol=1e-9)  # Adam's epsilon
    assert_close(float(after["budget_dual"]), 0.7 + 0.5 * excess)
    assert_close(after["consensus_dual"], u2 + 0.2 * (theta - z), rtol=0.0, atol=1e-9)


def test_paper_finds_a_friendly_optimum_without_its_one_way_rules() -> None:
    problem = friendly_problem()
    settings = admm.PaperSettings(only_shrink=False, stop_at_budget=False, theta_lr=3.0)
    optimizer = admm.make_optimizer("paper", problem.cost, floors=problem.floors, settings=settings)
    search(optimizer, problem.gradient, problem.budget, steps=350, first=problem.budget)
    assert log_error(optimizer.keep_ratios, problem.optimum) < 0.1
    assert float(problem.cost(optimizer.keep_ratios)) == pytest.approx(problem.budget, rel=0.03)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_paper_as_stated_shrinks_to_the_budget_and_stops(noise: float) -> None:
    problem = friendly_problem()
    gradient = noisy(problem, noise)
    optimizer = admm.make_optimizer("paper", problem.cost, floors=problem.floors)
    old = optimizer.keep_ratios
    assert_close(old, torch.full_like(old, 0.95))
    for _ in range(120):
        optimizer.step(gradient(old), problem.budget)
        assert bool((optimizer.keep_ratios <= old).all())
        old = optimizer.keep_ratios
    assert 0.9 * problem.budget < float(problem.cost(old)) <= problem.budget
    assert log_error(old, problem.optimum) < 0.3
    state = optimizer.state_dict()
    optimizer.step(gradient(old), problem.budget)
    assert_close(optimizer.state_dict(), state, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("name", ["priced", "paper"])
def test_a_saved_state_continues_bit_for_bit(name: str, n: int) -> None:
    problem = PROBLEMS["clipped"]
    costs, budgets = [problem.cost, linear_cost([6, 5, 4, 3, 2, 1])][:n], [0.6, 0.3][:n]
    generator = torch.Generator().manual_seed(3)
    gradients = torch.randn(20, 6, generator=generator, dtype=torch.float64)

    def made() -> admm.KeepRatioOptimizer:
        return admm.make_optimizer(name, costs, floors=problem.floors)

    def run(optimizer: admm.KeepRatioOptimizer, rows: Tensor) -> list[admm.Residuals]:
        return [optimizer.step(row, budgets, step_scale=0.7) for row in rows]

    whole, half, resumed = made(), made(), made()
    residuals = run(whole, gradients)
    run(half, gradients[:10])
    assert half.binding == n - 1  # of two not what a fresh optimizer starts with
    buffer = io.BytesIO()
    torch.save(half.state_dict(), buffer)
    run(half, gradients[10:])  # the saved copy must not follow
    buffer.seek(0)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    assert resumed.binding == n - 1
    assert run(resumed, gradients[10:]) == residuals[10:]
    assert torch.equal(resumed.keep_ratios, whole.keep_ratios)
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


@pytest.mark.parametrize("name", ["priced", "paper"])
def test_answers_are_copies_and_arguments_stay_untouched(name: str) -> None:
    problem = friendly_problem()
    floors, start = problem.floors.float(), torch.full((4,), 0.9)
    optimizer = admm.make_optimizer(name, problem.cost, floors=floors, start=start)
    before = optimizer.keep_ratios
    assert before.dtype == torch.float64
    optimizer.keep_ratios.zero_()
    optimizer.state_dict().popitem()[1].zero_()
    assert torch.equal(optimizer.keep_ratios, before)
    gradient = problem.gradient(before).float()
    kept = gradient.clone()
    optimizer.step(gradient, 0.5)
    assert torch.equal(gradient, kept)
    assert torch.equal(start, torch.full((4,), 0.9))


@pytest.mark.parametrize("name", ["priced", "paper"])
def test_wrong_calls_are_refused_with_reasons(name: str) -> None:
    problem = friendly_problem()
    optimizer = admm.make_optimizer(name, problem.cost, floors=problem.floors)
    state = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"gradient: wanted one value a group, shape \(4,\)"):
        optimizer.step(torch.zeros(3), 0.5)
    with pytest.raises(ValueError, match=r"gradient: not finite in groups \[2\]"):
        optimizer.step(torch.tensor([0.0, 0.0, math.nan, 0.0]), 0.5)
    with pytest.raises(ValueError, match="step_scale"):
        optimizer.step(torch.zeros(4), 0.5, step_scale=-1.0)
    with pytest.raises(BudgetError, match="cannot be reached"):
        optimizer.step(torch.zeros(4), 1e-4)
    assert_close(optimizer.state_dict(), state, rtol=0.0, atol=0.0)
    with pytest.raises(ValueError, match="wanted the entries"):
        optimizer.load_state_dict({"x": torch.zeros(4)})
    with pytest.raises(ValueError, match=r"state\['z'\]"):
        optimizer.load_state_dict({**state, "z": torch.zeros(3, dtype=torch.float64)})


def test_make_optimizer_refuses_what_does_not_fit() -> None:
    cost, floors = linear_cost([1, 1]), torch.full((2,), 0.1)
    with pytest.raises(ConfigError, match="did you mean 'priced'"):
        admm.make_optimizer("prized", cost, floors=floors)
    with pytest.raises(ConfigError, match="PaperSettings does not belong to 'priced'"):
        admm.make_optimizer("priced", cost, floors=floors, settings=admm.PaperSettings())
    with pytest.raises(ValueError, match="start: wanted one ratio a group"):
        admm.make_optimizer("priced", cost, floors=floors, start=torch.ones(3))
    with pytest.raises(ValueError, match="floors: wanted ratios in"):
        admm.make_optimizer("priced", cost, floors=torch.zeros(2))


def test_a_group_that_costs_nothing_does_no_harm() -> None:
    optimizer = admm.make_optimizer("priced", linear_cost([1, 2, 0]), floors=torch.full((3,), 0.05))
    residuals = search(optimizer, lambda a: -1 / a.square(), 0.4, steps=300)
    best = linear_problem([1, 2], [1, 1], 0.4).optimum
    assert float(optimizer.keep_ratios[2]) == 1.0  # it lowers the loss for nothing
    assert_close(optimizer.keep_ratios[:2], best, rtol=1e-2, atol=0.0)
    assert math.isfinite(residuals.price)


def test_paper_meets_a_budget_with_a_floor_above_its_largest_ratio():
    # F = .9 a1 + .1 a2 with a1 held at 1: the budget .94 leaves a2 = .4, within reach
    cost = linear_cost([0.9, 0.1])
    floors = torch.tensor([1.0, 0.01], dtype=torch.float64)
    optimizer = admm.make_optimizer("paper", cost, floors=floors)
    for _ in range(4000):
        optimizer.step(torch.zeros(2, dtype=torch.float64), 0.94)
    assert float(optimizer.keep_ratios[0]) == 1.0
    assert float(cost(optimizer.keep_ratios)) <= 0.94 + 1e-3
