"""Sums over the segments of one flat vector."""

import torch
from torch import Tensor


def segment_ids(offsets: Tensor) -> Tensor:
    """Number of the segment that each position belongs to.

    Args:
        offsets: shape (G + 1,), int64; segment g is the positions offsets[g] .. offsets[g + 1] - 1.

    Returns:
        Segment numbers 0 .. G - 1, shape (n,), int64, rising.
    """
    sizes = offsets.diff()
    return torch.repeat_interleave(torch.arange(len(sizes), device=offsets.device), sizes)


def segment_sum(x: Tensor, offsets: Tensor) -> Tensor:
    """Sum of x over each segment, differentiable in x.

    Args:
        x: shape (n, ...).
        offsets: shape (G + 1,), int64, as in `segment_ids`.

    Returns:
        Sums, shape (G, ...), in the dtype of x; 0 for an empty segment.
    """
    return sum_by(x, segment_ids(offsets), len(offsets) - 1)


def inexactness(p: Tensor, offsets: Tensor) -> Tensor:
    """How far keep probabilities are from a decision: E_g = sum_i p_i (1 - p_i) per segment.

    For independent masks m_i ~ Bernoulli(p_i) this is Var(sum_i m_i), in channels squared: n/4 when
    all p_i = 1/2, and 0 when each channel is decided. Differentiable in p.

    Args:
        p: keep probabilities, shape (n,), in [0, 1].
        offsets: shape (G + 1,), int64.

    Returns:
        Inexactness, shape (G,).

    Source: Ning et al., DSA, ECCV 2020 (arXiv:2004.02164), inexactness of a pruning process.
    """
    return segment_sum(p * (1 - p), offsets)


def sum_by(x: Tensor, ids: Tensor, count: int) -> Tensor:
    """Sum the rows of x that carry the same id: (n, ...), (n,) -> (count, ...)."""
    return x.new_zeros(count, *x.shape[1:]).index_add(0, ids, x)


def places(score: Tensor, offsets: Tensor) -> Tensor:
    """The place of every position in its segment by score, int64, shape (n,).

    0 is the highest; of equals the first comes first.
    """
    ids = segment_ids(offsets)
    order = score.argsort(descending=True, stable=True)
    order = order[ids[order].argsort(stable=True)]  # by segment, the highest first
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return place - offsets[ids]


def softmax_by(logits: Tensor, ids: Tensor, count: int) -> Tensor:
    """Softmax over the entries that carry the same id; all -inf gives zeros, not NaN."""
    peak = logits.new_full((count,), torch.finfo(logits.dtype).min)
    peak = peak.scatter_reduce(0, ids, logits, "amax")
    weight = torch.exp(logits - peak.take(ids))
    total = sum_by(weight, ids, count).clamp_min(torch.finfo(logits.dtype).tiny)
    return weight / total.take(ids)
