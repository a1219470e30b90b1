"""`soft_topk` in two launches: one solves all segments and writes p, one is the backward pass.

Custom operators that launch `triton_kernels.py`, with what autograd and `torch.compile` need to
know of them. Nothing waits for the device.
"""

import torch
import triton
from torch import Tensor

from dsa_core.kernels.triton_kernels import backward_kernel, forward_kernel

LONGEST = 65_536  # channels of a segment: one program takes them all; longer ones go to `fast.py`
FARTHEST = 1e9  # temperatures: float64 knows a threshold out there to 1e-7 of one
MAX_EVALUATIONS = 100  # about 10 are usual; bisection alone needs about 60


def block_size(n: int, n_segments: int) -> int:
    """Channels that a program takes at a time: twice the mean length, from 64 to 2048."""
    return min(2048, max(64, triton.next_power_of_2(2 * n // max(n_segments, 1))))


@torch.library.custom_op("dsa_core::soft_topk", mutates_args=())
def soft_topk_op(
    scores: Tensor, k: Tensor, offsets: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor]:
    """Keep probabilities (n,) and thresholds (G,) float64.

    Scores of float32 or bfloat16 (float64 is answered in float32's digits), within `FARTHEST`
    temperatures.
    """
    scores, n_segments = scores.contiguous(), len(k)
    p = torch.empty_like(scores)
    threshold = torch.empty(n_segments, dtype=torch.float64, device=scores.device)
    forward_kernel[(n_segments,)](
        scores,
        k.contiguous(),
        offsets.contiguous(),
        temperature.contiguous(),
        p,
        threshold,
        MAX=MAX_EVALUATIONS,
        BLOCK=block_size(len(scores), n_segments),
    )
    return p, threshold


@torch.library.custom_op("dsa_core::soft_topk_backward", mutates_args=())
def soft_topk_backward_op(
    grad: Tensor, scores: Tensor, k: Tensor, offsets: Tensor, temperature: Tensor, threshold: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the scores (n,) and of k (G,); formulas in `reference.py`."""
    scores, n_segments = scores.contiguous(), len(k)
    grad_scores, grad_k = torch.empty_like(scores), torch.empty_like(k)
    backward_kernel[(n_segments,)](
        grad.contiguous(),
        scores,
        offsets.contiguous(),
        temperature.contiguous(),
        threshold,
        grad_scores,
        grad_k,
        BLOCK=block_size(len(scores), n_segments),
    )
    return grad_scores, grad_k


@soft_topk_op.register_fake
def _(scores: Tensor, k: Tensor, offsets: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    p = torch.empty_like(scores, memory_format=torch.contiguous_format)
    return p, k.new_empty(k.shape[0], dtype=torch.float64)


@soft_topk_backward_op.register_fake
def _(
    grad: Tensor, scores: Tensor, k: Tensor, offsets: Tensor, temperature: Tensor, threshold: Tensor
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(scores), torch.empty_like(k)


def _setup_context(
    ctx: torch.autograd.function.FunctionCtx,
    inputs: tuple[Tensor, Tensor, Tensor, Tensor],
    output: tuple[Tensor, Tensor],
) -> None:
    threshold = output[1]
    ctx.mark_non_differentiable(threshold)
    ctx.save_for_backward(*inputs, threshold)


def _backward(
    ctx: torch.autograd.function.FunctionCtx, grad: Tensor, *_: Tensor
) -> tuple[Tensor | None, ...]:
    scores, k, offsets, temperature, threshold = ctx.saved_tensors  # type: ignore[attr-defined]
    grads = soft_topk_backward_op(grad, scores, k, offsets, temperature, threshold)
    return (*grads, None, None)


soft_topk_op.register_autograd(_backward, setup_context=_setup_context)
