"""Sums over the segments of one flat vector."""

from collections.abc import Iterator

import torch
from torch import Tensor

PIECE = 1 << 16  # float64 numbers that stay in a cache


def segment_ids(offsets: Tensor) -> Tensor:
    """Number 0 .. G - 1 of the segment that each position belongs to, shape (n,), int64.

    Segment g is the positions offsets[g] .. offsets[g + 1] - 1; offsets are int64, shape (G + 1,).
    """
    sizes = offsets.diff()
    return torch.repeat_interleave(torch.arange(len(sizes), device=offsets.device), sizes)


def segment_sum(x: Tensor, offsets: Tensor) -> Tensor:
    """Sum of x (n, ...) over each segment, (G, ...), differentiable; 0 for an empty segment."""
    return torch.segment_reduce(x, "sum", lengths=offsets.diff(), unsafe=True)


def sum_by(x: Tensor, ids: Tensor, count: int) -> Tensor:
    """Sum the rows of x that carry the same id: (n, ...), (n,) -> (count, ...)."""
    return x.new_zeros(count, *x.shape[1:]).index_add(0, ids, x)


def pieces(offsets: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The flat vector piece by piece: where a piece lies, and what it has of each segment, (G,)."""
    n = int(offsets[-1])
    for begin in range(0, n, PIECE):
        end = min(begin + PIECE, n)
        yield slice(begin, end), offsets.clamp(begin, end).diff()


def sigmoid_sums(
    s: Tensor, offsets: Tensor, *, origin: Tensor | float, scale: Tensor | float, t: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum p and w = p (1 - p) over each segment, p = sigmoid(scale (s - origin) - t).

    In pieces: nothing of the size of s (n,) is made. Both sums have shape (G,), float64, and are 0
    for an empty segment.
    """
    kept, weight = s.new_zeros(2, len(offsets) - 1, dtype=torch.float64)
    for piece, lengths in pieces(offsets):
        p = torch.sigmoid((s[piece].double() - origin) * scale - t)
        kept += torch.segment_reduce(p, "sum", lengths=lengths, unsafe=True)
        weight += torch.segment_reduce(p * (1 - p), "sum", lengths=lengths, unsafe=True)
    return kept, weight


def places(score: Tensor, offsets: Tensor) -> Tensor:
    """The place of every position in its segment by score, int64, shape (n,).

    0 is the highest; of equals the first comes first.
    """
    sizes, place = offsets.diff().tolist(), torch.empty_like(score, dtype=torch.int64)
    for part, out in zip(score.split(sizes), place.split(sizes), strict=True):
        order = part.argsort(descending=True, stable=True)
        out[order] = torch.arange(len(part), device=score.device)
    return place


def softmax_by(logits: Tensor, ids: Tensor, count: int) -> Tensor:
    """Softmax over the entries that carry the same id; all -inf gives zeros, not NaN."""
    peak = logits.new_full((count,), torch.finfo(logits.dtype).min)
    peak = peak.scatter_reduce(0, ids, logits, "amax")
    weight = torch.exp(logits - peak.take(ids))
    total = sum_by(weight, ids, count).clamp_min(torch.finfo(logits.dtype).tiny)
    return weight / total.take(ids)
