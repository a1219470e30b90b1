"""How much each group keeps where all scores compete for one budget; what stays, by rank."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dsa_core.budget import QuadraticForm
from dsa_core.kernels.roots import find_root
from dsa_core.kernels.segments import pieces, places, segment_ids, sigmoid_sums

SAMPLE = 1 << 16  # scores, of which a threshold is found without a first guess
REACH = 40.0  # sigmoid(40) is 1 to the last bit of float64


def competing_counts(
    scores: Tensor,
    offsets: Tensor,
    cost: QuadraticForm,
    budget: float,
    *,
    eps: float,
    floors: Tensor,
) -> Tensor:
    """Count what every group keeps where all scores compete under one budget.

    One threshold for the whole network, so that equal scores give equal keep ratios:

        k_g(t) = sum_{i in g} sigmoid((2 s_i - 1) / eps - t),   t such that  F(k(t) / n) = B.

    With the cost linear, F = sum_i f_i m_i, this is the transport problem of `dtp_transport`
    over the whole network at once, the source of each unit weighted by its cost f_i instead of
    1 / n. F rises with every m_i, hence falls with t: the root is unique where F is not
    flat.

    The gradient is that of the implicit function. With g = dL/dk of a unit's group, w = m (1 - m)
    and f_i = dF/dm_i, price = sum g w / sum f w:  dL/ds_i = (2 / eps) w_i (g_i - price f_i). A unit
    gains by what the loss gives for it, less what its cost would give elsewhere.

    Args:
        scores, offsets: as in `soft_topk`.
        cost: F of the keep ratios, F(1) = 1, on the CPU.
        budget: B, in [F(floors), 1]; 1 keeps all.
        eps: weight of the entropy, > 0.
        floors: smallest keep ratios, shape (G,), in (0, 1]; a group at its floor has no gradient.

    Returns:
        k, shape (G,), float64, on the device of the scores.
    """
    floors = floors.to(scores.device)
    if float(cost(torch.ones_like(floors))) <= budget * (1 + 1e-12):
        return offsets.diff().double()
    k: Tensor = _Counts.apply(scores, offsets, cost, budget, 2 / eps, floors)
    return k


class _Counts(torch.autograd.Function):
    """k at the root, and the gradient that `competing_counts` states."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        root = _root(*given)
        scores, offsets, cost, _, scale, floors = given
        ctx.save_for_backward(scores, offsets, floors, root)
        ctx.cost, ctx.scale = cost, scale
        return _ratios(scores, offsets, scale, floors, root)[0] * offsets.diff()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scores, offsets, floors, root = ctx.saved_tensors
        ratios, weight = _ratios(scores, offsets, ctx.scale, floors, root)
        f = ctx.cost.gradient(ratios).to(root) / offsets.diff()
        worth = grads[0] - (grads[0] * weight).sum() / _positive((f * weight).sum()) * f
        factor = ctx.scale * torch.where(ratios > floors, worth, 0.0)
        grad = torch.empty_like(scores)
        for piece, lengths in pieces(offsets):
            p = torch.sigmoid((scores[piece].double() - 0.5) * ctx.scale - root)
            grad[piece] = p * (1 - p) * factor.repeat_interleave(lengths)
        return grad, None, None, None, None, None


def _ratios(
    scores: Tensor, offsets: Tensor, scale: float, floors: Tensor, t: Tensor
) -> tuple[Tensor, Tensor]:
    """Keep ratios at a threshold, and their slopes sum w; 0 at a floor. Shape (G,) each."""
    kept, weight = sigmoid_sums(scores, offsets, origin=0.5, scale=scale, t=t)
    ratios = kept / offsets.diff().clamp_min(1)  # a sample may have nothing of a group
    return torch.maximum(ratios, floors), torch.where(ratios > floors, weight, 0.0)


def _root(
    scores: Tensor,
    offsets: Tensor,
    cost: QuadraticForm,
    budget: float,
    scale: float,
    floors: Tensor,
) -> Tensor:
    """Find t with F = B, shape (); of many scores, from the threshold of a sample."""
    every, start = -(-len(scores) // SAMPLE), None
    if every > 1:
        sample = scores[::every], (offsets + every - 1) // every
        start = _root(*sample, cost, budget, scale, floors)

    def step(t: Tensor) -> Tensor:
        ratios, weight = _ratios(scores, offsets, scale, floors, t)
        slope = (cost.gradient(ratios).to(t) * weight / offsets.diff().clamp_min(1)).sum()
        return (budget - cost(ratios).to(t)) / _positive(slope)

    low, high = (torch.stack(scores.detach().aminmax()).double() - 0.5) * scale
    return find_root(step, low - REACH, high + REACH, nearly=1e-13, start=start)[0]


def _positive(x: Tensor) -> Tensor:
    """Above 0, so that it divides."""
    return x.clamp_min(torch.finfo(x.dtype).tiny)


def ranks(importance: Tensor, offsets: Tensor) -> Tensor:
    """Scores by the order within each group: (rank + 1/2) / size, in (0, 1), float32.

    The least important unit of n scores 1 / 2n, the most important 1 - 1 / 2n; of equals the first
    ranks higher. So every group has the same scores, whatever the scale of its importance, (n,),
    and at first one threshold for all groups is the uniform allocation: what departs from it later,
    the loss has asked for.
    """
    parts = places(importance, offsets).split(offsets.diff().tolist())
    return torch.cat([((len(p) - 0.5 - p.double()) / len(p)).float() for p in parts])


def keep_most(score: Tensor, counts: Tensor, offsets: Tensor) -> Tensor:
    """The `counts` (G,) highest scores of every group, bool, shape (n,); ties go to the first."""
    ids = segment_ids(offsets)
    return places(score, offsets) < counts.to(ids)[ids]
