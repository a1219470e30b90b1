"""The budget surface F(alpha) = B: its metric, its prices, and the one shift that lands on it.

A cost F is a `QuadraticForm`, normalised so that F(1) = 1, with no coefficient below 0. So F never
falls when a ratio grows, and F(exp v) is convex in v: a loss convex in log ratios has one optimum
under F <= B. On the surface F = B itself, which `Priced` keeps to, that is the only point of equal
prices where the price is negative (more channels lower the loss); where removing channels helps,
there may be several.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dsa_core.budget.form import QuadraticForm
from dsa_core.errors import BudgetError
from dsa_core.kernels.roots import find_root

SMALLEST_WEIGHT = 1e-12  # a group that costs nothing has no price; its weight is taken as this
REACH = 1e-9  # budgets this close (relative) to F(1) or F(floors) count as equal to it
ROUNDING = 1e-13  # of a log ratio: a smaller step is the last

Costs = QuadraticForm | Sequence[QuadraticForm]


def as_forms(costs: Costs) -> tuple[QuadraticForm, ...]:
    """One form or several, as a tuple."""
    return tuple(costs) if isinstance(costs, Sequence) else (costs,)


def per_form(costs: Costs, budgets: float | Sequence[float]) -> list[tuple[QuadraticForm, float]]:
    """Every form with its budget; ValueError if there are not as many budgets as forms."""
    forms = as_forms(costs)
    wanted = tuple(budgets) if isinstance(budgets, Sequence) else (budgets,)
    if len(wanted) != len(forms):
        raise ValueError(
            f"budgets: wanted one ratio for each of {len(forms)} cost forms, got {len(wanted)}"
        )
    return list(zip(forms, wanted, strict=True))


def metric(cost: QuadraticForm, alpha: Tensor) -> Tensor:
    """Return the share of the cost that each ratio commands: the elasticity of F, shape (K,), >= 0.

    w_k = dlog F / dlog alpha_k = alpha_k (dF/dalpha_k) / F.  Growing group k by 1 % costs w_k %
    more.
    """
    return alpha * cost.gradient(alpha) / cost(alpha)


def prices(gradient: Tensor, cost: QuadraticForm, alpha: Tensor) -> Tensor:
    """Return what one unit of log cost is worth in each group, shape (K,), in units of the loss.

    r_k = (dL/dlog alpha_k) / w_k = alpha_k g_k / w_k  =  F (dL/dalpha_k) / (dF/dalpha_k),

    with g = dL/dalpha. At a constrained optimum dL/dalpha_k = -lambda dF/dalpha_k, so every group
    strictly between its bounds has the same price -lambda F. A price is negative where more
    channels lower the loss. Groups with w_k < 1e-12 are priced as if w_k were 1e-12.
    """
    return alpha * gradient / metric(cost, alpha).clamp_min(SMALLEST_WEIGHT)


def check_budget(cost: QuadraticForm, budget: float, floors: Tensor) -> None:
    """Raise BudgetError unless F(floors) <= budget <= 1 and every floor lies in (0, 1]."""
    if not bool(((floors > 0) & (floors <= 1)).all()):
        raise BudgetError(f"floors: wanted every floor in (0, 1], got {floors.tolist()}")
    if not 0.0 < budget <= 1.0 + REACH:
        raise BudgetError(
            f"budget: wanted a ratio of the dense cost in (0, 1], got {budget}; 0.5 asks for half"
        )
    lowest = float(cost(floors))
    if lowest > budget * (1 + REACH):
        raise BudgetError(
            f"budget: {budget:.6g} of the dense cost cannot be reached: with every group at its"
            f" floor {lowest:.6g} is left. Ask for at least that, or lower the floors"
        )


def shift_to_budget(
    v: Tensor, cost: QuadraticForm, budget: float, floors: Tensor
) -> tuple[Tensor, Tensor]:
    """Land on the budget surface by one common shift of all log ratios.

    Solves  F(a(c)) = B,  a_k(c) = clip(exp(v_k - c), floor_k, 1),  for the shift c.

    To first order this is the projection on the surface in the metric w: minimising
    sum_k w_k (z_k - v_k)^2 / 2 under F(exp z) = B gives w_k (z_k - v_k) = -mu F w_k, the same step
    for every group. Each a_k(c) falls or stays as c grows, and F with it, so the root is unique up
    to stretches where F is flat. At c = min v all ratios are 1; at c = max(v - log floor) all are
    at their floors: that is the bracket. Newton's method, kept inside it by bisection, runs until F
    is B to a few roundings or no float64 lies between the ends. The surface is met from both sides:
    c < 0 where F(exp v) < B.

    Args:
        v: log ratios, shape (K,), finite, any sign; computed in float64.
        cost: the form F.
        budget: B, in [F(floors), 1].
        floors: lowest keep ratios, shape (K,), in (0, 1].

    Returns:
        Log ratios, shape (K,), in [log floor, 0], exact at the bounds; and the shift c, shape ().

    Raises:
        BudgetError: B is outside [F(floors), 1], or a floor outside (0, 1].
    """
    v, floors = v.to(torch.float64), floors.to(v.device, torch.float64)
    check_budget(cost, budget, floors)
    log_floors = floors.log()
    shift, highest = float(v.min()), float((v - log_floors).max())
    if float(cost(floors)) >= budget * (1 - REACH):
        shift = highest
    elif float(cost(torch.ones_like(v))) > budget * (1 + REACH):
        shift = _root(v, cost, budget, floors, (shift, highest))
    return (v - shift).clamp(max=0.0).maximum(log_floors), v.new_tensor(shift)


def shift_to_budgets(
    v: Tensor, costs: Costs, budgets: float | Sequence[float], floors: Tensor
) -> tuple[Tensor, Tensor, int]:
    """Land on the tightest of several budgets by one common shift of all log ratios.

    Each F_r(a(c)) falls or stays as c grows, so at the largest of the shifts c_r with
    F_r(a(c_r)) = B_r (`shift_to_budget`, whose arguments these are) every other form is within its
    budget too.

    Returns:
        Log ratios, shape (K,); the shift c, shape (); and the index r of the form that binds, the
        first of those that ask for the same shift.
    """
    landed = [shift_to_budget(v, cost, b, floors) for cost, b in per_form(costs, budgets)]
    binding = max(range(len(landed)), key=lambda r: float(landed[r][1]))
    return *landed[binding], binding


def _root(
    v: Tensor, cost: QuadraticForm, budget: float, floors: Tensor, bracket: tuple[float, float]
) -> float:
    """Find c with F(a(c)) = B in a bracket with F(low) > B > F(high)."""

    def step(shift: Tensor) -> Tensor:
        wanted = (v - shift).exp()
        alpha = wanted.clamp(max=1.0).maximum(floors)
        # dF/dc = -sum of alpha_k dF/dalpha_k over the unclipped groups
        slope = (alpha * cost.gradient(alpha))[alpha == wanted].sum()
        return (budget - cost(alpha)) / slope

    root, _ = find_root(step, *v.new_tensor(bracket), nearly=ROUNDING)
    return float(root)


def uniform_ratio(costs: Costs, budgets: float | Sequence[float], floors: Tensor) -> Tensor:
    """Return the uniform allocation: one ratio for all groups, or the floor where it is higher.

    alpha_k = max(t, floor_k) with F(alpha) = B, of several the tightest: `shift_to_budgets` of log
    ratios that are all zero. Shape (K,), float64.
    """
    return to_ratios(shift_to_budgets(torch.zeros_like(floors), costs, budgets, floors)[0], floors)


def to_ratios(log_ratios: Tensor, floors: Tensor) -> Tensor:
    """Return exp(log_ratios), (K,), held in [floor, 1]: exp(log x) may miss x by one rounding."""
    return log_ratios.exp().clamp(max=1.0).maximum(floors)
