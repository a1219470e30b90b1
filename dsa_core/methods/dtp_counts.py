"""How much each group keeps where all scores compete for one budget; what stays, by rank."""

import torch
from torch import Tensor

from dsa_core.budget.surface import CostForm
from dsa_core.kernels.roots import find_root
from dsa_core.kernels.segments import places, segment_ids, sum_by

REACH = 40.0  # sigmoid(40) is 1 to the last bit of float64


def competing_counts(
    scores: Tensor,
    offsets: Tensor,
    cost: CostForm,
    budget: float,
    *,
    eps: float,
    floors: Tensor,
) -> Tensor:
    """Count what every group keeps where all scores compete under one budget.

    One threshold for the whole network, so that equal scores give equal keep ratios:

        k_g(t) = sum_{i in g} sigmoid((2 s_i - 1) / eps + t),   t such that  F(k(t) / n) = B.

    With the cost linear, F = sum_i f_i m_i, this is the transport problem of `dtp_transport`
    over the whole network at once, the source of each unit weighted by its cost f_i instead of
    1 / n. F rises with every m_i, hence with t: the root is unique where F is not flat.

    The gradient is that of the implicit function. With g = dL/dk of a unit's group, w = m (1 - m)
    and f_i = dF/dm_i, price = sum g w / sum f w:  dL/ds_i = (2 / eps) w_i (g_i - price f_i). A unit
    gains by what the loss gives for it, less what its cost would give elsewhere.

    Args:
        scores: s, shape (n,), trainable.
        offsets: bounds of the groups, shape (G + 1,), int64.
        cost: F of the keep ratios, F(1) = 1, on the CPU.
        budget: B, in [F(floors), 1]; 1 keeps all.
        eps: weight of the entropy, > 0.
        floors: smallest keep ratios, shape (G,), in (0, 1]; a group at its floor has no gradient.

    Returns:
        k, shape (G,), float64, on the device of the scores.
    """
    ids, sizes = segment_ids(offsets), offsets.diff()
    floors = floors.to(scores.device)
    if float(cost(torch.ones_like(floors))) <= budget * (1 + 1e-12):
        return sizes.double()
    x = (2 * scores.double() - 1) / eps

    def ratios(t: Tensor) -> Tensor:
        kept = sum_by(torch.sigmoid(x + t), ids, len(sizes))
        return torch.maximum(kept / sizes, floors)

    with torch.no_grad():
        root = _root(x, ids, cost, budget, floors, sizes)
        slope = _slope(x + root, ids, cost, floors, sizes)
    # one more Newton step moves t by nothing, and carries dt/ds = -(dF/ds) / (dF/dt)
    excess = cost(ratios(root)).to(root) - budget
    return ratios(root - (excess - excess.detach()) / slope) * sizes


def _root(
    x: Tensor, ids: Tensor, cost: CostForm, budget: float, floors: Tensor, sizes: Tensor
) -> Tensor:
    """Find t with F = B."""

    def step(t: Tensor) -> Tensor:
        kept = sum_by(torch.sigmoid(x + t), ids, len(sizes))
        excess = cost(torch.maximum(kept / sizes, floors)).to(x) - budget
        return excess / _slope(x + t, ids, cost, floors, sizes)

    return find_root(step, -x.max() - REACH, -x.min() + REACH, nearly=1e-13)[0]


def _slope(logits: Tensor, ids: Tensor, cost: CostForm, floors: Tensor, sizes: Tensor) -> Tensor:
    """Slope dF/dt; a group at its floor adds nothing. Above 0, so that it divides."""
    m = torch.sigmoid(logits)
    kept, weight = (sum_by(v, ids, len(sizes)) / sizes for v in (m, m * (1 - m)))
    prices = cost.gradient(torch.maximum(kept, floors)).to(weight)
    tiny = torch.finfo(weight.dtype).tiny
    return (prices * weight)[kept > floors].sum().clamp_min(tiny)


def ranks(importance: Tensor, offsets: Tensor) -> Tensor:
    """Scores by the order within each group: (rank + 1/2) / size, in (0, 1).

    The least important unit of n scores 1 / 2n, the most important 1 - 1 / 2n; of equals the first
    ranks higher. So every group has the same scores, whatever the scale of its importance, and at
    first one threshold for all groups is the uniform allocation: what departs from it later, the
    loss has asked for.

    Args:
        importance: shape (n,).
        offsets: bounds of the groups, shape (G + 1,).

    Returns:
        Scores, shape (n,), float32.
    """
    sizes = offsets.diff()[segment_ids(offsets)]
    below = sizes - 1 - places(importance, offsets)
    return ((below.double() + 0.5) / sizes).float()


def keep_most(score: Tensor, counts: Tensor, offsets: Tensor) -> Tensor:
    """The `counts` (G,) highest scores of every group, bool, shape (n,); ties go to the first."""
    ids = segment_ids(offsets)
    return places(score, offsets) < counts.to(ids)[ids]
