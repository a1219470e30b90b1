"""`transport.proximal_step` in one launch, and one for its backward pass; see `triton.py`.

One program per segment, of any length. No root is sought: a step scales rows and columns once. The
plan is float64, as the sum of many steps; per channel all else is float32.
"""
# mypy: disable-error-code="no-untyped-def"
# (arguments of kernels are what Triton makes of them: pointers, blocks and scalars)

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dsa_core.kernels.triton import block_size
from dsa_core.kernels.triton_kernels import load_scores

_FAR = tl.constexpr(1e300)


@triton.jit
def _log_sigmoid(x):
    """log sigmoid of float64, its bend in float32."""
    bend = tl.log(1.0 + tl.exp(-tl.minimum(tl.abs(x), 100.0).to(tl.float32)))
    return tl.minimum(x, 0.0) - bend.to(tl.float64)


@triton.jit
def _logits(scores, frozen, log_odds, begin, end, rate, BLOCK: tl.constexpr, FROZEN: tl.constexpr):
    """y = z + (2 s - 1) / eps as float64, and which channels are free."""
    s, free = load_scores(scores, frozen, begin, end, BLOCK, FROZEN)
    index = begin + tl.arange(0, BLOCK)
    z = tl.load(log_odds + index, mask=index < end, other=0.0)
    return z + (2.0 * s - 1.0) * rate, free


@triton.jit
def step_kernel(
    scores, k, offsets, frozen, log_odds, log_scale, eps, mask, next_odds, next_scale,
    BLOCK: tl.constexpr, FROZEN: tl.constexpr,
):  # fmt: skip
    """Scale the rows of segment g, then its columns; formulas at `transport.proximal_step`."""
    g = tl.program_id(0)
    start, end = tl.load(offsets + g), tl.load(offsets + g + 1)
    rate, scale = 1.0 / tl.load(eps), tl.load(log_scale + g)
    count = tl.zeros([BLOCK], dtype=tl.float32)
    high = tl.full([BLOCK], -_FAR, dtype=tl.float64)
    low = tl.full([BLOCK], _FAR, dtype=tl.float64)
    for begin in range(start, end, BLOCK):
        y, free = _logits(scores, frozen, log_odds, begin, end, rate, BLOCK, FROZEN)
        count += tl.where(free, 1.0, 0.0)
        high = tl.maximum(high, tl.where(free, y + scale, -_FAR))
        low = tl.minimum(low, tl.where(free, y + scale, _FAR))
    n = tl.sum(count).to(tl.float64)
    kept = tl.load(k + g).to(tl.float64) - ((end - start).to(tl.float64) - n)
    edge_q, edge_d = _log_sigmoid(tl.max(high)), _log_sigmoid(-tl.min(low))

    q = tl.zeros([BLOCK], dtype=tl.float32)
    d = tl.zeros([BLOCK], dtype=tl.float32)
    for begin in range(start, end, BLOCK):
        y, free = _logits(scores, frozen, log_odds, begin, end, rate, BLOCK, FROZEN)
        far_q = tl.minimum(edge_q - _log_sigmoid(y + scale), 200.0).to(tl.float32)
        far_d = tl.minimum(edge_d - _log_sigmoid(-y - scale), 200.0).to(tl.float32)
        q += tl.where(free, tl.exp(-far_q), 0.0)
        d += tl.where(free, tl.exp(-far_d), 0.0)
    solved = kept < n
    kept = tl.where(solved, kept, 0.5 * n)
    total_q = tl.log(tl.maximum(tl.sum(q), 1e-30).to(tl.float64)) + edge_q
    total_d = tl.log(tl.maximum(tl.sum(d), 1e-30).to(tl.float64)) + edge_d
    log_kept = tl.log(tl.maximum(kept, 1e-300)) - total_q
    log_dropped = tl.log(tl.maximum(n - kept, 1e-300)) - total_d
    after = tl.where(solved, scale + log_kept - log_dropped, scale)
    tl.store(next_scale + g, after)
    for begin in range(start, end, BLOCK):
        index = begin + tl.arange(0, BLOCK)
        inside = index < end
        y, free = _logits(scores, frozen, log_odds, begin, end, rate, BLOCK, FROZEN)
        m = tl.exp(tl.minimum(_log_sigmoid(y + scale) + log_kept, 80.0).to(tl.float32))
        m = tl.where(free, tl.where(solved, m, 1.0), 1.0)
        tl.store(mask + index, m.to(mask.dtype.element_ty), mask=inside)
        before = tl.load(log_odds + index, mask=inside, other=0.0)
        odds = tl.where(free, tl.where(solved, y + after, before), before)
        tl.store(next_odds + index, odds, mask=inside)


@triton.jit
def step_backward_kernel(
    grad, scores, k, offsets, frozen, log_odds, log_scale, eps, grad_scores, grad_k,
    BLOCK: tl.constexpr, FROZEN: tl.constexpr,
):  # fmt: skip
    """grad_k = sum g m / k,  grad_s = (2 / eps) m (1 - q) (g - grad_k), with m / k = q / sum q."""
    g = tl.program_id(0)
    start, end = tl.load(offsets + g), tl.load(offsets + g + 1)
    rate, scale = 1.0 / tl.load(eps), tl.load(log_scale + g)
    count = tl.zeros([BLOCK], dtype=tl.float32)
    high = tl.full([BLOCK], -_FAR, dtype=tl.float64)
    for begin in range(start, end, BLOCK):
        y, free = _logits(scores, frozen, log_odds, begin, end, rate, BLOCK, FROZEN)
        count += tl.where(free, 1.0, 0.0)
        high = tl.maximum(high, tl.where(free, y + scale, -_FAR))
    n = tl.sum(count).to(tl.float64)
    kept = tl.load(k + g).to(tl.float64) - ((end - start).to(tl.float64) - n)
    edge = _log_sigmoid(tl.max(high))

    total = tl.zeros([BLOCK], dtype=tl.float32)
    weighted = tl.zeros([BLOCK], dtype=tl.float32)
    for begin in range(start, end, BLOCK):
        index = begin + tl.arange(0, BLOCK)
        y, free = _logits(scores, frozen, log_odds, begin, end, rate, BLOCK, FROZEN)
        far = tl.minimum(edge - _log_sigmoid(y + scale), 200.0).to(tl.float32)
        share = tl.where(free, tl.exp(-far), 0.0)
        total += share
        weighted += share * tl.load(grad + index, mask=index < end, other=0.0).to(tl.float32)
    whole = tl.maximum(tl.sum(total), 1e-30)
    mean = tl.where(kept < n, tl.sum(weighted) / whole, 0.0)
    tl.store(grad_k + g, mean.to(grad_k.dtype.element_ty))
    for begin in range(start, end, BLOCK):
        index = begin + tl.arange(0, BLOCK)
        y, free = _logits(scores, frozen, log_odds, begin, end, rate, BLOCK, FROZEN)
        far = tl.minimum(edge - _log_sigmoid(y + scale), 200.0).to(tl.float32)
        m = tl.exp(-far) / whole * kept.to(tl.float32)
        r = tl.exp(tl.maximum(_log_sigmoid(-y - scale), -100.0).to(tl.float32))
        upstream = tl.load(grad + index, mask=index < end, other=0.0).to(tl.float32)
        value = 2.0 * rate.to(tl.float32) * m * r * (upstream - mean)
        value = tl.where(free, tl.where(kept < n, value, 0.0), 0.0)
        tl.store(grad_scores + index, value.to(grad_scores.dtype.element_ty), mask=index < end)


@torch.library.custom_op("dsa_core::proximal_step", mutates_args=())
def proximal_step_op(
    scores: Tensor,
    k: Tensor,
    offsets: Tensor,
    log_odds: Tensor,
    log_scale: Tensor,
    eps: float,
    frozen: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Masks (n,), and the next plan: log-odds (n,) and log scales (G,), both float64."""
    scores, n_segments = scores.contiguous(), len(k)
    mask, odds, scale = torch.empty_like(scores), torch.empty_like(log_odds), log_scale.clone()
    step_kernel[(n_segments,)](
        scores,
        k.contiguous(),
        offsets.contiguous(),
        scores if frozen is None else frozen.contiguous().view(torch.uint8),
        log_odds.contiguous(),
        log_scale.contiguous(),
        log_scale.new_full((1,), eps),
        mask,
        odds,
        scale,
        BLOCK=block_size(len(scores), n_segments),
        FROZEN=frozen is not None,
    )
    return mask, odds, scale


@torch.library.custom_op("dsa_core::proximal_step_backward", mutates_args=())
def proximal_step_backward_op(
    grad: Tensor,
    scores: Tensor,
    k: Tensor,
    offsets: Tensor,
    log_odds: Tensor,
    log_scale: Tensor,
    eps: float,
    frozen: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Gradients of the scores (n,) and of k (G,)."""
    scores, n_segments = scores.contiguous(), len(k)
    grad_scores, grad_k = torch.empty_like(scores), torch.empty_like(k)
    step_backward_kernel[(n_segments,)](
        grad.contiguous(),
        scores,
        k.contiguous(),
        offsets.contiguous(),
        scores if frozen is None else frozen.contiguous().view(torch.uint8),
        log_odds.contiguous(),
        log_scale.contiguous(),
        log_scale.new_full((1,), eps),
        grad_scores,
        grad_k,
        BLOCK=block_size(len(scores), n_segments),
        FROZEN=frozen is not None,
    )
    return grad_scores, grad_k


@proximal_step_op.register_fake
def _(
    scores: Tensor,
    k: Tensor,
    offsets: Tensor,
    log_odds: Tensor,
    log_scale: Tensor,
    eps: float,
    frozen: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(scores), torch.empty_like(log_odds), torch.empty_like(log_scale)


@proximal_step_backward_op.register_fake
def _(
    grad: Tensor,
    scores: Tensor,
    k: Tensor,
    offsets: Tensor,
    log_odds: Tensor,
    log_scale: Tensor,
    eps: float,
    frozen: Tensor | None,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(scores), torch.empty_like(k)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    scores, k, offsets, log_odds, log_scale, ctx.eps, frozen = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(scores, k, offsets, log_odds, log_scale, frozen)


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    *given, frozen = ctx.saved_tensors
    return (*proximal_step_backward_op(grad, *given, ctx.eps, frozen), *[None] * 5)


proximal_step_op.register_autograd(_backward, setup_context=_setup_context)
