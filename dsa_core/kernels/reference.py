"""`soft_topk` as it is defined: one segment after the other, the threshold by halving an interval.

For one segment with scores s_1 .. s_n, temperature T and expected count k:

    p_i = sigmoid((s_i - t) / T),      t such that  sum_i p_i = k.

Slow; what every fast twin must equal, and the place to read what they compute.
"""

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid


def soft_topk(scores: Tensor, k: Tensor, offsets: Tensor, *, temperature: Tensor) -> Tensor:
    """Keep k of n in expectation; see `dsa_core.kernels.soft_topk`, which checks its arguments."""
    parts = [
        _Segment.apply(scores[a:b].double(), k[g].double(), temperature[g])
        for g, (a, b) in enumerate(itertools.pairwise(offsets.tolist()))
    ]
    return torch.cat(parts).to(scores.dtype)


def threshold(x: Tensor, k: Tensor) -> Tensor:
    """Find t with  sum_i sigmoid(x_i - t) = k.

    The sum falls in t. At t = min x - logit(k / n) every p_i is at least k / n, at max x instead of
    min x at most: the root lies between. The interval is halved until no float64 is left inside.

    Args:
        x: scores in units of the temperature, shape (n,), float64.
        k: shape (), float64, 0 < k < n.

    Returns:
        t, shape (). Where a range of t has the sum k to the last bit (scores far apart, whole k),
        one of them.
    """
    logit = k.log() - (len(x) - k).log()
    lower, upper = x.min() - logit - 1e-9, x.max() - logit + 1e-9
    while lower < (t := (lower + upper) / 2) < upper:
        lower, upper = (t, upper) if torch.sigmoid(x - t).sum() > k else (lower, t)
    return t


class _Segment(torch.autograd.Function):
    """p of one segment, float64."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, k: Tensor, temperature: Tensor) -> Tensor:
        if k >= len(s):
            ctx.save_for_backward(torch.softmax(-s / temperature, 0), torch.zeros_like(s))
            return torch.ones_like(s)
        # the last channel that could be kept is put at 0: near t, differences are exact
        x = (s - s.sort(descending=True).values[int(k)]) / temperature
        z = x - threshold(x, k)
        log_w = logsigmoid(z) + logsigmoid(-z)  # w = p (1 - p), which may underflow
        ctx.save_for_backward(torch.softmax(log_w, 0), log_w.exp() / temperature)
        return torch.sigmoid(z)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        """Implicit function theorem on sum_i sigmoid((s_i - t) / T) = k, with w_i = p_i (1 - p_i).

        Differentiating the condition gives dt/dk = -T / sum w and dt/ds_j = w_j / sum w, hence

            dp_i/dk   = w_i / sum w
            dp_i/ds_j = (w_i delta_ij - w_i w_j / sum w) / T.

        For k -> n, w_i tends to 1 - p_i, so that the shares w_i / sum w tend to softmax(-s / T):
        that limit stands for k = n, where dp/ds = 0.
        """
        share, slope = ctx.saved_tensors
        grad_k = (share * grads[0]).sum()
        return slope * (grads[0] - grad_k), grad_k, None
