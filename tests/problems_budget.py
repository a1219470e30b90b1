"""Toy allocation problems with known answers.

Minimise L(alpha) under F(alpha) = B, floor <= alpha <= 1.

The loss is L(alpha) = sum_k c_k / alpha_k, with dL/dalpha_k = -c_k / alpha_k^2.

*Uniqueness.* With v = log alpha, L = sum_k c_k exp(-v_k) is convex, and F(exp v), a sum of
exponentials with coefficients >= 0, is convex too: a geometric program. L falls in every ratio, so
F <= B holds with equality, and the Kuhn-Tucker point is the one optimum.

*Linear cost, nothing clipped* (`linear_problem`). F = sum_k q_k alpha_k. Stationarity: c_k /
alpha_k^2 = lambda q_k, so alpha_k = sqrt(c_k / q_k) / sqrt(lambda); putting this into sum_k q_k
alpha_k = B gives 1 / sqrt(lambda) = B / sum_j sqrt(c_j q_j), hence alpha_k = B sqrt(c_k / q_k) /
sum_j sqrt(c_j q_j).

*Any cost, from its optimum* (`problem_at`). Choose alpha*, and lambda = 1. Between the bounds take
c_k = lambda F_k(alpha*) alpha*_k^2; at alpha*_k = 1 take `push` > 1 times that (the group would
grow if it could), at alpha*_k = floor take it divided by `push`. This satisfies the Kuhn-Tucker
conditions at alpha* with B = F(alpha*).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsa_core import budget as admm
from dsa_core.budget import QuadraticForm


def normalised(Q: Tensor, q: Tensor, const: float = 0.0) -> QuadraticForm:
    total = float(Q.sum() + q.sum()) + const
    return QuadraticForm(Q.double() / total, q.double() / total, const / total)


def linear_cost(q: list[float]) -> QuadraticForm:
    return normalised(torch.zeros(len(q), len(q)), torch.tensor(q))


def chain_cost(widths: list[float], const: float = 0.0) -> QuadraticForm:
    """A chain of convolutions fed by an image: Q[k, k - 1] = C_k C_{k-1}, q_0 = 3 C_0."""
    c = torch.tensor(widths, dtype=torch.float64)
    q = torch.zeros_like(c)
    q[0], q[-1] = 3 * c[0], 10 * c[-1]
    return normalised(torch.diag(c[1:] * c[:-1], -1), q, const)


@dataclass(frozen=True)
class Problem:
    """A toy problem and its answer."""

    cost: QuadraticForm
    c: Tensor
    budget: float
    floors: Tensor
    optimum: Tensor

    def loss(self, alpha: Tensor) -> Tensor:
        return (self.c / alpha).sum()

    def gradient(self, alpha: Tensor) -> Tensor:
        return -self.c / alpha.square()


def linear_problem(q: list[float], c: list[float], budget: float) -> Problem:
    cost, c_ = linear_cost(q), torch.tensor(c, dtype=torch.float64)
    optimum = budget * (c_ / cost.q).sqrt() / (c_ * cost.q).sqrt().sum()
    assert float(optimum.max()) < 1.0
    return Problem(cost, c_, budget, torch.full_like(c_, 0.01), optimum)


def problem_at(
    cost: QuadraticForm, optimum: list[float], floors: list[float], push: float = 2.0
) -> Problem:
    best = torch.tensor(optimum, dtype=torch.float64)
    low = torch.tensor(floors, dtype=torch.float64)
    c = cost.gradient(best) * best.square()
    c = torch.where(best >= 1.0, c * push, torch.where(best <= low, c / push, c))
    return Problem(cost, c, float(cost(best)), low, best)


def all_problems() -> dict[str, Problem]:
    return {
        "linear": linear_problem([1, 2, 3, 4], [0.3, 0.1, 0.4, 0.2], 0.4),
        "quadratic": problem_at(
            chain_cost([16, 16, 32, 64, 64]), [0.9, 0.3, 0.5, 0.2, 0.7], [0.05] * 5
        ),
        "clipped": problem_at(
            chain_cost([16, 16, 32, 32, 64, 64], 500.0), [1.0, 0.25, 0.6, 0.1, 0.4, 1.0], [0.1] * 6
        ),
        "floors": problem_at(
            chain_cost([16, 32, 32, 64]), [0.5, 0.3, 0.7, 0.4], [0.5, 0.3, 0.2, 0.1], 3.0
        ),
    }


def friendly_problem() -> Problem:
    """Half the cost of a short chain, ratios between 0.5 and 0.8: nothing near a bound."""
    return problem_at(chain_cost([16, 16, 32, 32]), [0.8, 0.5, 0.7, 0.6], [0.05] * 4)


def search(
    optimizer: admm.KeepRatioOptimizer,
    gradient: Callable[[Tensor], Tensor],
    budgets: float | Sequence[float],
    *,
    steps: int,
    first: float = 1.0,
) -> admm.Residuals:
    """Anneal the budgets from `first` over half the steps; the step falls by a cosine."""
    ends = budgets if isinstance(budgets, Sequence) else [budgets]
    for s in range(steps):
        now = [admm.budget_at(s, steps, start=first, end=end) for end in ends]
        scale = admm.step_scale_at(s, steps)
        residuals = optimizer.step(gradient(optimizer.keep_ratios), now, step_scale=scale)
    return residuals
