"""`soft_topk` over ragged segments in plain torch: what every faster twin must equal.

For one segment with scores s_1 .. s_n, temperature T and expected count k:

    p_i = sigmoid((s_i - t) / T),      t such that  sum_i p_i = k.

From top to bottom: find t, evaluate p, differentiate by the implicit function theorem. Nothing here
loops over segments in Python; its input is checked by `dsa_core.kernels`.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid

from dsa_core.kernels.segments import segment_ids, softmax_by, sum_by

MAX_ITERATIONS = 200  # bisection alone needs about 60 from any bracket that occurs
CONVERGED_RESIDUAL = 1e-10
_ROUNDING = 1e-13  # |log(A/B)| that float64 sums of a few thousand terms can resolve


class Threshold(NamedTuple):
    """The solved thresholds of G segments.

    Attributes:
        root: t, shape (G,), float64, in the unit of the scores; -inf where k = n (everything kept).
        residual: |sum p - k| / min(k, n - k), shape (G,), float64, frozen channels left out of
            sum p, k and n. It bounds |sum p - k| / k, and it resolves tiny k and tiny n - k alike.
        iterations: evaluations of the imbalance that the slowest segment needed.
        converged: residual <= 1e-10, shape (G,), bool.
    """

    root: Tensor
    residual: Tensor
    iterations: int
    converged: Tensor


def soft_topk(
    scores: Tensor,
    k: Tensor,
    offsets: Tensor,
    *,
    temperature: Tensor,
    frozen: Tensor | None = None,
) -> Tensor:
    """Keep k of n in expectation; see `dsa_core.kernels.soft_topk`, which checks its arguments."""
    if frozen is None:
        frozen = torch.zeros_like(scores, dtype=torch.bool)
    p: Tensor = _SoftTopK.apply(scores, k, offsets, temperature, frozen)
    return p


@torch.no_grad()
def solve_threshold(
    scores: Tensor,
    k: Tensor,
    offsets: Tensor,
    *,
    temperature: Tensor,
    frozen: Tensor | None = None,
) -> Threshold:
    """Find the thresholds; see `dsa_core.kernels.solve_threshold`, which checks its arguments."""
    if frozen is None:
        frozen = torch.zeros_like(scores, dtype=torch.bool)
    problem = _standardise(
        scores, k, offsets, ids=segment_ids(offsets), temperature=temperature, frozen=frozen
    )
    shifted, residual, iterations = _find_root(problem)
    root = torch.full_like(problem.temperature, -torch.inf)
    residuals = torch.zeros_like(root)
    root[problem.open] = problem.pivot + shifted * problem.temperature[problem.open]
    residuals[problem.open] = residual
    return Threshold(root, residuals, iterations, residuals <= CONVERGED_RESIDUAL)


class _Problem(NamedTuple):
    """The segments that have a root (0 < k < n), without their frozen channels, sorted.

    M channels in S open segments. Within a segment x falls. The first m = round(k) are its `top`,
    the others its `rest`; side 2g is the top of open segment g, side 2g + 1 its rest.
    """

    x: Tensor  # (M,) float64, (s - pivot) / T: the channel where p crosses k sits at x = 0
    position: Tensor  # (M,) int64, where x stands in the flat vector of scores
    segment: Tensor  # (M,) int64 in 0 .. S - 1, rising
    side: Tensor  # (M,) int64 in 0 .. 2S - 1, rising
    y: Tensor  # (M,) -x in the top, x in the rest: logit of the wrong decision, at threshold 0
    y_edge: Tensor  # (2S,) largest y of each side
    log_carry: Tensor  # (2S,) log of max(r, 0) and of max(-r, 0), r = k - round(k)
    x_upper: Tensor  # (S,) x of the ceil(k)-th largest
    n: Tensor  # (S,) float64, channels that are not frozen
    k: Tensor  # (S,) float64, of them kept in expectation, 0 < k < n
    pivot: Tensor  # (S,) float64, score of the (floor(k) + 1)-th largest
    open: Tensor  # (S,) int64, which of the G segments
    temperature: Tensor  # (G,) float64


def _standardise(
    scores: Tensor,
    k: Tensor,
    offsets: Tensor,
    *,
    ids: Tensor,
    temperature: Tensor,
    frozen: Tensor,
) -> _Problem:
    """Leave out what has no unknown, then sort, shift and scale the rest.

    The shift by the pivot keeps the digits of large scores: near the root, where digits matter,
    s - pivot is the exact difference of two close numbers.
    """
    n_frozen = sum_by(frozen.to(torch.int64), ids, len(k))
    n_free = offsets.diff() - n_frozen
    k_free = k.double() - n_frozen
    is_open = k_free < n_free
    rank_of_open = is_open.cumsum(0) - 1  # (G,) number among the open ones
    position = torch.nonzero(~frozen & is_open.take(ids)).squeeze(1)
    position = position.take(scores.take(position).argsort(descending=True))
    position = position.take(ids.take(position).argsort(stable=True))

    group = ids.take(position)  # (M,)
    segment = rank_of_open.take(group)  # (M,)
    n, kept = n_free[is_open], k_free[is_open]  # (S,)
    first = n.cumsum(0) - n  # (S,) where a segment starts among the M
    top = kept.round().long()
    in_rest = torch.arange(len(position), device=scores.device) >= (first + top).take(segment)
    s = scores.take(position).double()
    pivot = s.take(first + kept.floor().long())
    x = (s - pivot.take(segment)) / temperature.take(group)
    last_of_top = x.take(first + (top - 1).clamp_min(0))
    first_of_rest = x.take(first + torch.minimum(top, n - 1))
    r = kept - top
    return _Problem(
        x=x,
        position=position,
        segment=segment,
        side=2 * segment + in_rest,
        y=torch.where(in_rest, x, -x),
        y_edge=_interleave(-last_of_top, first_of_rest),
        log_carry=_interleave(r, -r).clamp_min(0).log(),
        x_upper=x.take(first + kept.ceil().long() - 1),
        n=n.double(),
        k=kept,
        pivot=pivot,
        open=torch.nonzero(is_open).squeeze(1),
        temperature=temperature,
    )


def _interleave(top: Tensor, rest: Tensor) -> Tensor:
    """One value per side: (S,), (S,) -> (2S,)."""
    return torch.stack([top, rest], 1).flatten()


def _bracket(problem: _Problem) -> tuple[Tensor, Tensor]:
    """Bounds on the root u in units of x, shape (S,) each.

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


def _imbalance(u: Tensor, problem: _Problem) -> tuple[Tensor, Tensor, Tensor]:
    """How far u is from the root, without ever subtracting k from a sum.

    With m = round(k) and r = k - m, the condition sum p = k reads, split at the m-th largest,

        A := sum_top (1 - p_i) + max(r, 0)  =  sum_rest p_i + max(-r, 0) =: B.

    Every term is positive and A rises, B falls in u, so phi = log A - log B rises strictly through
    its only zero. Each side holds only the mass on the *wrong* side of the threshold, so k = 1e-6,
    n - k = 1e-6 and sharp temperatures keep their relative accuracy; logs keep them from underflow.

    Args:
        u: trial root in units of x, shape (S,).
        problem: the standardised segments.

    Returns:
        phi, its derivative in [0, 2], and log B, shape (S,) each.
    """
    v = _interleave(-u, u)
    log_wrong = logsigmoid(problem.y - v.take(problem.side))  # (M,) log(1 - p) or log p
    edge = logsigmoid(problem.y_edge - v)  # (2S,) the largest log_wrong of a side
    scaled = torch.exp(log_wrong - edge.take(problem.side))  # in [0, 1]
    mass = sum_by(scaled, problem.side, len(edge))
    slope = sum_by(-scaled * torch.expm1(log_wrong), problem.side, len(edge))
    log_total = torch.logaddexp(edge + mass.log(), problem.log_carry)  # log A, log B
    derivative = (slope * torch.exp(edge - log_total)).view(-1, 2).sum(1)
    log_a, log_b = log_total.view(-1, 2).unbind(1)
    return log_a - log_b, derivative, log_b


def _find_root(problem: _Problem) -> tuple[Tensor, Tensor, int]:
    """Safeguarded Newton for all open segments at once.

    A Newton step is taken where it stays inside the bracket, which every evaluation shrinks;
    elsewhere the bracket is halved. A segment that is done stands still, so that its answer does
    not depend on its neighbours. Four evaluations are usual; the most seen in 90,000 segments of
    hostile scores and counts were seven.

    Returns:
        Root u in units of x, shape (S,); residual, shape (S,); number of evaluations.
    """
    lower, upper = _bracket(problem)
    scale = 1 + torch.maximum(lower.abs(), upper.abs())
    resolved, narrowest = _ROUNDING * scale, 4 * torch.finfo(scale.dtype).eps * scale
    u = (lower + upper) / 2
    for iteration in range(1, MAX_ITERATIONS + 1):
        phi, derivative, log_b = _imbalance(u, problem)
        done = (phi.abs() <= resolved) | (upper - lower <= narrowest)
        if iteration == MAX_ITERATIONS or bool(done.all()):
            break
        lower = torch.where(phi < 0, u, lower)
        upper = torch.where(phi > 0, u, upper)
        newton = u - phi / derivative
        trusted = (newton > lower) & (newton < upper)
        u = torch.where(done, u, torch.where(trusted, newton, (lower + upper) / 2))
    # |sum p - k| = |B - A| = B |exp(phi) - 1|
    tail = torch.minimum(problem.k, problem.n - problem.k)
    return u, torch.expm1(phi).abs() * log_b.exp() / tail, iteration


def _check_converged(residual: Tensor, problem: _Problem) -> None:
    """Refuse to answer with probabilities that do not sum to k."""
    bad = torch.nonzero(~(residual <= CONVERGED_RESIDUAL)).flatten()
    if len(bad):
        g = int(problem.open[bad[0]])
        raise RuntimeError(
            f"scores: no threshold found for segment {g} within {MAX_ITERATIONS} iterations; "
            f"wanted residual <= {CONVERGED_RESIDUAL:g}, got {float(residual[bad[0]]):.3g}. Are "
            "scores beyond 1e300 temperatures? Scale them; otherwise please report the case."
        )


class _SoftTopK(torch.autograd.Function):
    """p at the root, and its derivatives with respect to the scores and k."""

    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        k: Tensor,
        offsets: Tensor,
        temperature: Tensor,
        frozen: Tensor,
    ) -> Tensor:
        ids = segment_ids(offsets)
        problem = _standardise(scores, k, offsets, ids=ids, temperature=temperature, frozen=frozen)
        u, residual, _ = _find_root(problem)
        _check_converged(residual, problem)
        # z = (s - t) / T; +inf means kept for certain: frozen, or k = n
        z = torch.full_like(scores, torch.inf, dtype=torch.float64)
        z[problem.position] = problem.x - u.take(problem.segment)
        if any(ctx.needs_input_grad):
            t = problem.temperature[ids]
            log_w = logsigmoid(z) + logsigmoid(-z)  # w = p (1 - p); -inf where p is 1 for certain
            everything = (k >= offsets.diff())[ids]
            logits = torch.where(everything, -scores / t, log_w)  # the limit: see `backward`
            share = softmax_by(logits.masked_fill(frozen, -torch.inf), ids, len(k))
            slope = torch.exp(log_w) / t
            ctx.save_for_backward(share.to(scores.dtype), slope.to(scores.dtype), ids)
            ctx.n_segments, ctx.k_dtype = len(k), k.dtype
        return torch.sigmoid(z).to(scores.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Implicit function theorem on sum_i sigmoid((s_i - t) / T) = k, with w_i = p_i (1 - p_i).

        Differentiating the condition gives dt/dk = -T / sum w and dt/ds_j = w_j / sum w, hence

            dp_i/dk   = w_i / sum w
            dp_i/ds_j = (w_i delta_ij - w_i w_j / sum w) / T.

        `share` is w_i / sum w, computed as a softmax of log w: it never is 0/0. For k -> n, w_i
        tends to 1 - p_i, so that the shares tend to softmax(-s / T): that limit stands for k = n,
        where dp/ds = 0. Frozen channels have w = 0.
        """
        share, slope, ids = ctx.saved_tensors
        grad = grads[0]
        grad_k = sum_by(share * grad, ids, ctx.n_segments)
        grad_scores = slope * (grad - grad_k.index_select(0, ids))
        return grad_scores, grad_k.to(ctx.k_dtype), None, None, None
