"""`soft_topk` over all segments at once in plain torch: the twin of `reference.py` for daily use.

No loop over segments, and four evaluations in place of sixty: the segments are sorted, their
thresholds found by Newton's method on a condition in logarithms, in float64. Long segments, whose
sorting takes longest, go to `long.py`.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid

from dsa_core.kernels import long
from dsa_core.kernels.roots import find_root
from dsa_core.kernels.segments import segment_ids, segment_sum, softmax_by, sum_by

LONG = 1 << 14  # scores of a segment, in the mean

# A root that was not found is off by far more; sums of 1e8 equal terms may round by as much.
CONVERGED_RESIDUAL = 1e-8


class Threshold(NamedTuple):
    """The solved thresholds of G segments.

    Attributes:
        root: t, shape (G,), float64, in the unit of the scores; -inf where k = n (everything kept).
        residual: |sum p - k| / k, shape (G,), float64.
        iterations: evaluations that the slowest segment needed.
        converged: residual <= 1e-8, shape (G,), bool.
    """

    root: Tensor
    residual: Tensor
    iterations: int
    converged: Tensor


def soft_topk(scores: Tensor, k: Tensor, offsets: Tensor, *, temperature: Tensor) -> Tensor:
    """Keep k of n in expectation; see `dsa_core.kernels.soft_topk`, which checks its arguments."""
    p: Tensor = _SoftTopK.apply(scores, k, offsets, temperature)
    return p


@torch.no_grad()
def solve_threshold(
    scores: Tensor, k: Tensor, offsets: Tensor, *, temperature: Tensor
) -> Threshold:
    """Find the thresholds; see `dsa_core.kernels.solve_threshold`, which checks its arguments."""
    ids = segment_ids(offsets)
    problem = _standardise(scores, k, offsets, ids=ids, temperature=temperature)
    u, iterations = _solve(problem)
    residual = _residual(torch.sigmoid(_logits(u, problem, ids)), k, offsets)
    root = (problem.pivot + u * temperature).masked_fill(problem.closed, -torch.inf)
    return Threshold(root, residual, iterations, residual <= CONVERGED_RESIDUAL)


class _Problem(NamedTuple):
    """The segments sorted: within each, x falls.

    The first m = round(k) channels of a segment are its `top`, the others its `rest`; side 2g is
    the top of segment g, side 2g + 1 its rest.
    """

    x: Tensor  # (n,) float64, (s - pivot) / T: the channel where p crosses k sits at x = 0
    order: Tensor  # (n,) int64, where x stands in the flat vector of scores
    side: Tensor  # (n,) int64 in 0 .. 2G - 1, rising
    y: Tensor  # (n,) -x in the top, x in the rest: logit of the wrong decision, at threshold 0
    y_edge: Tensor  # (2G,) largest y of each side
    log_carry: Tensor  # (2G,) log of max(r, 0) and of max(-r, 0), r = k - round(k)
    x_upper: Tensor  # (G,) x of the ceil(k)-th largest
    n: Tensor  # (G,) int64, channels
    k: Tensor  # (G,) float64, of them kept in expectation, 0 < k < n
    pivot: Tensor  # (G,) float64, score of the (floor(k) + 1)-th largest
    closed: Tensor  # (G,) bool, all is kept, and k = n / 2 stands in for what has no root


def _standardise(
    scores: Tensor, k: Tensor, offsets: Tensor, *, ids: Tensor, temperature: Tensor
) -> _Problem:
    """Sort, shift and scale.

    The shift by the pivot keeps the digits of large scores: near the root, where digits matter,
    s - pivot is the exact difference of two close numbers.
    """
    s, first, n, kept = scores.double(), offsets[:-1], offsets.diff(), k.double()
    closed = kept >= n
    kept = torch.where(closed, n.double() / 2, kept)
    top, below = kept.round().long(), kept.floor().long()

    order = s.argsort(descending=True)
    order = order.take(ids.take(order).argsort(stable=True))
    s = s.take(order)
    pivot = s.take(first + below)
    x = (s - pivot.take(ids)) / temperature.take(ids)
    in_rest = torch.arange(len(s), device=s.device) >= (first + top).take(ids)
    last_of_top = x.take(first + (top - 1).clamp_min(0))
    first_of_rest = x.take(first + torch.minimum(top, n - 1))
    r = kept - top
    return _Problem(
        x=x,
        order=order,
        side=2 * ids + in_rest,
        y=torch.where(in_rest, x, -x),
        y_edge=_interleave(-last_of_top, first_of_rest),
        log_carry=_interleave(r, -r).clamp_min(0).log(),
        x_upper=x.take(first + kept.ceil().long() - 1),
        n=n,
        k=kept,
        pivot=pivot,
        closed=closed,
    )


def _interleave(top: Tensor, rest: Tensor) -> Tensor:
    """One value per side: (G,), (G,) -> (2G,)."""
    return torch.stack([top, rest], 1).flatten()


def _solve(problem: _Problem) -> tuple[Tensor, int]:
    """Roots u in units of x, shape (G,), and the number of evaluations; four are usual.

    A step of 1e-6 is the last: phi of `_imbalance` has |phi''| <= 2 phi', so that it leaves 1e-12.
    """

    def step(u: Tensor) -> Tensor:
        phi, derivative = _imbalance(u, problem)
        return phi / derivative

    return find_root(step, *_bracket(problem), nearly=1e-6)


def _bracket(problem: _Problem) -> tuple[Tensor, Tensor]:
    """Bounds on the root u in units of x, shape (G,) each.

    Let x_(1) >= x_(2) >= .. be the sorted scores.
    Lower: for any j > k, the j largest have p_i >= sigmoid(x_(j) - u). So sum p >= k as soon as
        j sigmoid(x_(j) - u) >= k, that is u <= x_(j) - logit(k / j): the root is not below that.
    Upper: for any j < k + 1, the n - j + 1 smallest have 1 - p_i >= sigmoid(u - x_(j)). So
        sum (1 - p) >= n - k as soon as u >= x_(j) + logit((n - k) / (n - j + 1)).
    Taken at j = floor(k) + 1, where x = 0 by the choice of pivot, and at j = ceil(k). For
    fractional k both are the same channel, and the bracket is log(k (n - k) / (r (1 - r))) wide,
    r = k mod 1, however far the scores lie apart. Where all other channels are decided the root is
    an end of it: both ends move out by 1, so that a Newton step may overshoot the root there.
    """
    n, k = problem.n, problem.k
    lower = torch.log(k.floor() + 1 - k) - torch.log(k)  # -logit(k / j) = log(j - k) - log(k)
    upper = problem.x_upper + torch.log(n - k) - torch.log(k - (k.ceil() - 1))
    return lower - 1, upper + 1


def _imbalance(u: Tensor, problem: _Problem) -> tuple[Tensor, Tensor]:
    """How far u is from the root, without ever subtracting k from a sum.

    With m = round(k) and r = k - m, the condition sum p = k reads, split at the m-th largest,

        A := sum_top (1 - p_i) + max(r, 0)  =  sum_rest p_i + max(-r, 0) =: B.

    Every term is positive and A rises, B falls in u, so phi = log A - log B rises strictly through
    its only zero. Each side holds only the mass on the *wrong* side of the threshold, so k = 1e-6,
    n - k = 1e-6 and sharp temperatures keep their relative accuracy; logs keep them from underflow.

    Returns:
        phi and its derivative in [0, 2] at u, the trial root in units of x, shape (G,) each. A side
        has d log A / du = sum w / A with w = p (1 - p), and |dw / du| <= w <= 1 - p, from which
        |phi''| <= 2 phi'.
    """
    v = _interleave(-u, u)
    log_wrong = logsigmoid(problem.y - v.take(problem.side))  # (n,) log(1 - p) or log p
    edge = logsigmoid(problem.y_edge - v)  # (2G,) the largest log_wrong of a side
    scaled = torch.exp(log_wrong - edge.take(problem.side))  # in [0, 1]
    mass = sum_by(scaled, problem.side, len(edge))
    slope = sum_by(-scaled * torch.expm1(log_wrong), problem.side, len(edge))
    log_total = torch.logaddexp(edge + mass.log(), problem.log_carry)  # log A, log B
    derivative = (slope * torch.exp(edge - log_total)).view(-1, 2).sum(1)
    log_a, log_b = log_total.view(-1, 2).unbind(1)
    return log_a - log_b, derivative


def _logits(u: Tensor, problem: _Problem, ids: Tensor) -> Tensor:
    """z = (s - t) / T where the scores stand, (n,); +inf is kept for certain: k = n."""
    z = torch.empty_like(problem.x).scatter_(0, problem.order, problem.x - u.take(ids))
    return z.masked_fill(problem.closed.take(ids), torch.inf)


def _residual(p: Tensor, k: Tensor, offsets: Tensor) -> Tensor:
    """|sum p - k| / k of each segment."""
    return (segment_sum(p, offsets) - k).abs() / k


def _check_converged(residual: Tensor) -> None:
    """Refuse to answer with probabilities that do not sum to k."""
    good = residual <= CONVERGED_RESIDUAL
    if not bool(good.all()):
        g = int(good.long().argmin())
        raise RuntimeError(
            f"scores: no threshold found for segment {g}: wanted |sum p - k| / k <= "
            f"{CONVERGED_RESIDUAL:g}, got {float(residual[g]):.3g}. Are scores beyond 1e300 "
            "temperatures? Scale them; otherwise please report the case."
        )


class _SoftTopK(torch.autograd.Function):
    """p at the root, and its derivatives with respect to the scores and k."""

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, k: Tensor, offsets: Tensor, temperature: Tensor
    ) -> Tensor:
        by_segment = partial(long.probabilities, solve=solve_threshold)
        answer = by_segment if len(scores) >= LONG * len(k) else _at_once
        p, share, slope, residual = answer(scores, k, offsets, temperature)
        _check_converged(residual)
        ctx.save_for_backward(share, slope, offsets)
        ctx.k_dtype = k.dtype
        return p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The formulas of `reference`; shares by a softmax of log w, which never is 0/0."""
        share, slope, offsets = ctx.saved_tensors
        grad = grads[0]
        grad_k, sizes = segment_sum(share * grad, offsets), offsets.diff()
        mean = grad_k.repeat_interleave(sizes, output_size=len(grad))
        return slope * (grad - mean), grad_k.to(ctx.k_dtype), None, None


def _at_once(scores: Tensor, k: Tensor, offsets: Tensor, temperature: Tensor) -> tuple[Tensor, ...]:
    """p, shares w / sum w, slopes w / T, (n,) each, in the dtype of the scores; residual (G,)."""
    ids = segment_ids(offsets)
    problem = _standardise(scores, k, offsets, ids=ids, temperature=temperature)
    z = _logits(_solve(problem)[0], problem, ids)
    p, t = torch.sigmoid(z), temperature.take(ids)
    log_w = logsigmoid(z) + logsigmoid(-z)  # w = p (1 - p); -inf where p is 1 for certain
    logits = torch.where(problem.closed.take(ids), -scores / t, log_w)  # k = n: the limit
    share, slope = softmax_by(logits, ids, len(k)), log_w.exp() / t
    residual = _residual(p, k, offsets)
    return *(x.to(scores.dtype) for x in (p, share, slope)), residual
