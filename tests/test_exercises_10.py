"""Checks of notebook 10: the answers pass, typical mistakes do not."""

import torch
from course.exercises import n10
from graders import graded

from dsa_core.budget import Budget, Cost, QuadraticForm
from dsa_core.methods.amc_env import Wall
from dsa_core.methods.bracket import Trial, between

WRONG = {
    n10.check_shrink: [
        (lambda a, h, lam: a.sign() * (a.abs() - lam / h[:, None]).relu(), "length"),
        (lambda a, h, lam: a * (1 - lam / (h * a.norm(dim=1)))[:, None], "negative"),
        (lambda a, h, lam: a * (1 - lam / a.norm(dim=1)).relu()[:, None], "length"),
        (lambda a, h, lam: a * (h / (h + lam))[:, None], "length"),
    ],
    n10.check_between: [
        (lambda w, s, c: w[0] + (w[1] - c) / (w[1] - s[1]) * (s[0] - w[0]), "log"),
        (lambda w, s, c: (w[0] * s[0]) ** 0.5, "share"),
    ],
    n10.check_prices: [
        (lambda cost, i, o: (cost * i, cost * o), "saves"),
        (lambda cost, i, o: (cost, cost), "saves"),
    ],
    n10.check_wall: [
        (lambda sizes, least, limit: min(sizes[0], limit // 3), "least"),
        (lambda sizes, least, limit: limit // (3 + least), "no more"),
        (lambda sizes, least, limit: min(sizes[0], limit // (3 + sizes[1])), "least"),
    ],
    n10.check_in_epochs: [
        (lambda episodes, n, trained: episodes * n / trained, "backward"),
        (lambda episodes, n, trained: episodes * n / (2 * trained), "backward"),
        (lambda episodes, n, trained: 3 * episodes * n / trained, "backward"),
    ],
}

test_answers_pass, test_typical_slips_do_not = graded(n10, WRONG)


def test_the_library_interpolates_in_the_same_way():
    n10.check_between(lambda weak, strong, c: between(Trial(*weak), Trial(*strong), c))


def test_the_wall_is_that_of_the_library():
    def wall(sizes: list[int], least: int, limit: int) -> int:
        dense = 3 * sizes[0] + sizes[0] * sizes[1]
        pair = torch.tensor([[0.0, 0.5], [0.5, 0.0]], dtype=torch.float64) * sizes[0] * sizes[1]
        alone = torch.tensor([3.0 * sizes[0], 0.0], dtype=torch.float64)
        cost = Cost("macs", QuadraticForm(pair, alone, 0.0), torch.tensor(sizes), ("a", "b"))
        budget = Budget(macs=min(1.0, limit / dense))
        return Wall(cost, budget, torch.tensor([least, least])).most(0, torch.tensor(sizes))

    n10.check_wall(wall)


def test_the_shrunk_weights_are_a_minimum() -> None:
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(3, 4, generator=draw, dtype=torch.float64)
    a[2] *= 0.05  # too short to stay
    h = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)

    def value(w: torch.Tensor) -> float:
        return float((h * (w - a).square().sum(1) / 2 + 0.3 * w.norm(dim=1)).sum())

    w = n10.solution_shrink(a, h, 0.3)
    assert bool((w[2] == 0).all())
    assert bool((w[:2] != 0).all())
    for _ in range(200):
        assert value(w + 1e-3 * torch.randn(3, 4, generator=draw, dtype=torch.float64)) > value(w)
