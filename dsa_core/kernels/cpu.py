"""`soft_topk` for the channels of a network on a CPU: the reference without its overhead.

Tens of short segments cost hardly any arithmetic, only calls: plain torch needs some 200 operations
for a forward and a backward pass. Here the same equations are NumPy on flat float64 vectors, their
layout is worked out once per `offsets`, and the backward pass is a few operations. What is hard
(frozen channels, k within 1/2 of 0 or n, scores hundreds of temperatures apart, long segments) is
left to the reference: an answer is given only where its residual was found small.

Signs: a = -x is the excess of the pivot over a score, in temperatures, so that (1 - p) / p =
exp(a + u); u is the root in the units of `reference.py`.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dsa_core.kernels import reference
from dsa_core.kernels.layout import Floats, Layout, layout_of

MAX_ITERATIONS = 10
MAX_RESIDUAL = {torch.float32: 1e-7, torch.float64: 1e-11}  # |sum p - k| / min(k, n - k)
_NEARLY = {torch.float32: 1e-4, torch.float64: 1e-6}  # |phi|, which one more Newton step squares
_STEEP = 300.0  # exp(+-300)^2 is a float64
_FLAT = 1e-60  # sums of p (1 - p) below it are plateaus, whose shares need logarithms


class _Problem(NamedTuple):
    """All segments, sorted, each with its end mark; see `reference._Problem`."""

    excess: Floats  # (n + G,) a, rising within a segment; end mark +300
    wrong: Floats  # (n + G,) odds of the wrong decision at u = 0, inverted
    side: Any  # (n + G,) 2g in the top of segment g, 2g + 1 in its rest
    edges: Any  # (2G,) first entry of each side
    carry: Floats  # (2G,) max(r, 0) and max(-r, 0), r = k - round(k)
    pivot: Floats  # (G,) minus the score of the (floor(k) + 1)-th largest
    lower: Floats  # (G,) bounds on u
    upper: Floats  # (G,)


class _Solved(NamedTuple):
    """Probabilities, and what their derivatives need."""

    p: Floats  # (n,)
    share: Floats  # (n,) dp/dk
    slope: Floats  # (n,) p (1 - p) / T; 0 where k = n
    layout: Layout


def soft_topk(
    scores: Tensor,
    k: Tensor,
    offsets: Tensor,
    *,
    temperature: Tensor,
    frozen: Tensor | None = None,
) -> Tensor:
    """Keep k of n in expectation; see `dsa_core.kernels.soft_topk`, which checks its arguments."""
    solved = None if frozen is not None else _solve(scores, k, offsets, temperature)
    if solved is None:
        return reference.soft_topk(scores, k, offsets, temperature=temperature, frozen=frozen)
    if torch.is_grad_enabled() and (scores.requires_grad or k.requires_grad):
        p: Tensor = _SoftTopK.apply(scores, k, solved)
        return p
    return _tensor(solved.p, scores.dtype)


def _solve(scores: Tensor, k: Tensor, offsets: Tensor, temperature: Tensor) -> _Solved | None:
    """Thresholds and probabilities of all segments, or None where the reference must answer."""
    layout = layout_of(offsets)
    if layout is None:
        return None
    s = scores.detach().numpy().astype(np.float64)
    kept = k.detach().numpy().astype(np.float64)
    sharpness = 1 / temperature.numpy()
    is_open = None if (kept < layout.sizes).all() else kept < layout.sizes
    if is_open is not None:  # any count that has a root: what comes of it is replaced
        kept = np.where(is_open, kept, layout.sizes / 2)
    tail = np.minimum(kept, layout.sizes - kept)
    if tail.min() < 0.5:
        return None
    with np.errstate(all="ignore"):  # what is not finite is left to the reference
        problem = _standardise(s, kept, sharpness, layout)
        u = _find_root(problem, _NEARLY[scores.dtype])
        if u is None:
            return None
        scale = sharpness.take(layout.ids)
        a = s + problem.pivot.take(layout.ids)
        a *= -scale
        if is_open is not None:
            u = np.where(is_open, u, -40 - np.maximum.reduceat(a, layout.starts))
        a += u.take(layout.ids)
        solved, missing = _evaluate(a, kept, scale, layout)
    if is_open is not None:
        solved.slope[~is_open.take(layout.ids)] = 0.0
        missing *= is_open
    accurate = (missing / tail).max() <= MAX_RESIDUAL[scores.dtype]
    return solved if accurate and np.isfinite(solved.share).all() else None


def _evaluate(a: Floats, kept: Floats, scale: Floats, layout: Layout) -> tuple[_Solved, Floats]:
    """p and its derivatives from log((1 - p) / p), shape (n,); and |sum p - k|, shape (G,).

    The shares are NaN where p (1 - p) is so small that they need logarithms. Where everything is
    kept, a is so low that p rounds to 1 and the shares are in their limit softmax(-s / T).
    """
    odds = np.exp(np.minimum(np.maximum(a, -_STEEP), _STEEP))
    p = 1 / (1 + odds)
    w = odds * p * p
    total = np.add.reduceat(w, layout.starts)
    total[total < _FLAT] = np.nan
    missing = np.abs(np.add.reduceat(p, layout.starts) - kept)
    return _Solved(p, w / total.take(layout.ids), w * scale, layout), missing


def _standardise(s: Floats, kept: Floats, sharpness: Floats, layout: Layout) -> _Problem:
    """Sort, shift and scale; the sides, and the bracket as derived in `reference._bracket`."""
    ended = np.empty(len(s) + 1)
    np.negative(s, out=ended[:-1])
    ended[-1] = np.inf
    rows = ended.take(layout.rows)
    rows.sort(axis=1)
    below, above = np.floor(kept), np.ceil(kept)
    flat = rows.ravel()
    pivot = flat.take(layout.row_starts + below.astype(np.intp))
    first = flat.take(layout.row_starts + above.astype(np.intp) - 1)
    excess = flat.take(layout.ended)
    excess -= pivot.take(layout.ended_ids)
    excess *= sharpness.take(layout.ended_ids)
    excess = np.minimum(np.maximum(excess, -_STEEP), _STEEP)

    top = np.minimum(np.maximum(np.rint(kept), 1.0), layout.sizes)
    in_rest = layout.ended_rank >= top.take(layout.ended_ids)
    edges = np.empty((len(kept), 2), dtype=np.intp)
    edges[:, 0] = layout.ended_starts
    edges[:, 1] = layout.ended_starts + top.astype(np.intp)
    carry = np.empty((len(kept), 2))
    np.subtract(kept, top, out=carry[:, 0])
    np.negative(carry[:, 0], out=carry[:, 1])
    lower = np.log((below + 1 - kept) / kept) - 1
    upper = (pivot - first) * sharpness + np.log((layout.sizes - kept) / (kept - above + 1)) + 1
    return _Problem(
        excess=excess,
        wrong=np.exp(np.where(in_rest, excess, -excess)),
        side=2 * layout.ended_ids + in_rest,
        edges=edges.ravel(),
        carry=np.maximum(carry, 0.0).ravel(),
        pivot=pivot,
        lower=lower,
        upper=upper,
    )


def _find_root(problem: _Problem, nearly: float) -> Floats | None:
    """Newton on phi = log A - log B of `reference._imbalance`, held in the bracket; None if lost.

    The step after the last evaluation is not evaluated: phi is squared by it. The caller sums p.
    """
    u = (problem.lower + problem.upper) / 2
    if not np.maximum.reduce(np.abs(u)) < _STEEP:
        return None
    odds = np.empty((len(u), 2))
    for _ in range(MAX_ITERATIONS):
        np.exp(u, out=odds[:, 1])
        np.divide(1, odds[:, 1], out=odds[:, 0])
        wrong = 1 / (1 + problem.wrong * odds.ravel().take(problem.side))
        mass = np.add.reduceat(wrong, problem.edges)
        total = mass + problem.carry
        slope = (mass - np.add.reduceat(wrong * wrong, problem.edges)) / total
        phi = np.log(total[::2] / total[1::2])
        step = phi / (slope[::2] + slope[1::2])
        u = np.minimum(np.maximum(u - step, problem.lower), problem.upper)
        if np.maximum.reduce(np.abs(phi)) <= nearly:
            return u
    return None


class _SoftTopK(torch.autograd.Function):
    """A solved p as a function of scores and k; see `reference._SoftTopK.backward`."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: Tensor, solved: _Solved) -> Tensor:
        ctx.solved, ctx.dtypes = solved, (scores.dtype, k.dtype)
        return _tensor(solved.p, scores.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """grad_k = sum share g; grad_s = slope (g - grad_k). Once differentiable."""
        if torch.is_grad_enabled():  # asked for a graph: only then is the guard worth its time
            guarded: tuple[Tensor | None, ...] = once_differentiable(_gradients)(ctx, *grads)
            return guarded
        return _gradients(ctx, *grads)


def _gradients(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    """The backward pass; see `reference._SoftTopK.backward`."""
    share, slope, layout = ctx.solved.share, ctx.solved.slope, ctx.solved.layout
    grad = grads[0].numpy().astype(np.float64)
    grad_k = np.add.reduceat(share * grad, layout.starts)
    grad -= grad_k.take(layout.ids)
    scores_dtype, k_dtype = ctx.dtypes
    return _tensor(slope * grad, scores_dtype), _tensor(grad_k, k_dtype), None


def _tensor(x: Floats, dtype: torch.dtype) -> Tensor:
    """float32 or float64; rounded by NumPy, which starts faster."""
    return torch.from_numpy(x if dtype == torch.float64 else x.astype(np.float32))
