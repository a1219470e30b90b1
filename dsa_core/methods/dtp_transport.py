"""DTP's soft masks: optimal transport of n channels to the two targets "dropped" and "kept".

One segment of n channels with importance scores s_i, of which k are to be kept:

    P* = argmin_P <P, C> - eps H(P),   C_ij = (s_i - y_j)^2,   y = (0, 1),
    rows: sum_j P_ij = 1/n,            columns: (sum_i P_i0, sum_i P_i1) = (1 - k/n, k/n).

The mask is m_i = n P_i1. Two targets leave one unknown per row, the log-odds log(P_i1 / P_i0), and
one per segment, so that everything here is a vector and not a plan: `transport_mask` is the closed
form, `sinkhorn` the slow way to it, `proximal_step` the sequence of plans that a training follows.

Source: Li et al., DTP, ICCV 2023 (arXiv:2307.08483); the proximal sequence is IPOT, Xie et al.,
UAI 2019 (arXiv:1802.04307).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dsa_core.kernels import check_inputs, soft_topk
from dsa_core.kernels.segments import segment_ids, sum_by


class Plan(NamedTuple):
    """A transport plan between channels and targets, as far as the next proximal step needs it.

    The factor that each row carries cancels in the next step; what is left of P is its log-odds.

    Attributes:
        log_odds: log(P_i1 / P_i0), shape (n,), float64.
        log_scale: log(v_1 / v_0), shape (G,), float64: the column scaling of the last step. The
            next one starts from it; started from 1 instead, the sequence ends at a wrong plan.
    """

    log_odds: Tensor
    log_scale: Tensor

    @classmethod
    def uniform(cls, offsets: Tensor) -> "Plan":
        """The plan that prefers nothing, before the first step."""
        n, n_segments = int(offsets[-1]), len(offsets) - 1
        zeros = torch.zeros(n + n_segments, dtype=torch.float64, device=offsets.device)
        return cls(zeros[:n], zeros[n:])


def transport_mask(scores: Tensor, k: Tensor, offsets: Tensor, *, eps: float) -> Tensor:
    """Solve the transport problem of every segment in closed form.

    The plan is P_ij = u_i exp(-C_ij / eps) v_j, and C_i0 - C_i1 = 2 s_i - 1. With the rows fixed,

        m_i = sigmoid((2 s_i - 1) / eps + t),   t such that  sum_i m_i = k,

    which is `soft_topk` at temperature eps / 2: DSA's keep probability and DTP's mask are one.

    Args:
        scores, k, offsets: as in `soft_topk`.
        eps: weight of the entropy, > 0, in the unit of C (scores squared).

    Returns:
        Masks m in [0, 1], shape (n,), that sum to k; the gradient is that of `soft_topk`.

    Raises:
        ValueError: as `soft_topk`, or eps is no finite number above 0.

    Source: Li et al., DTP (arXiv:2307.08483), entropic transport; the closed form is ours.
    """
    check_eps(eps)
    return soft_topk(scores, k, offsets, temperature=eps / 2)


def sinkhorn(scores: Tensor, k: Tensor, offsets: Tensor, *, eps: float, steps: int) -> Tensor:
    """Solve the same problem by Sinkhorn's alternating scaling: slow and obviously right.

    One segment after the other, on the full plan, in the log domain. The columns are scaled last,
    so the masks sum to k after any number of steps, at least 1; the rows are right in the limit.

    Raises:
        ValueError: eps is no finite number above 0, or there is no step.
    """
    check_eps(eps)
    if steps < 1:
        raise ValueError(f"steps: wanted at least 1, got {steps}")
    parts = scores.double().split(offsets.diff().tolist())
    masks = [_sinkhorn_one(s, kept, eps, steps) for s, kept in zip(parts, k.double(), strict=True)]
    return torch.cat(masks).to(scores.dtype)


def _sinkhorn_one(s: Tensor, k: Tensor, eps: float, steps: int) -> Tensor:
    """Masks of one segment: (n,), () -> (n,)."""
    n = len(s)
    log_rows = -math.log(n)
    log_columns = torch.stack([1 - k / n, k / n]).log()  # (2,)
    targets = s.new_tensor([0.0, 1.0])
    log_kernel = -((s[:, None] - targets) ** 2) / eps  # (n, 2)
    log_v = torch.zeros_like(log_columns)
    for _ in range(steps):
        log_u = log_rows - torch.logsumexp(log_kernel + log_v, 1)
        log_v = log_columns - torch.logsumexp(log_kernel + log_u[:, None], 0)
    return n * torch.exp(log_u + log_kernel[:, 1] + log_v[1])


def proximal_step(
    scores: Tensor, k: Tensor, offsets: Tensor, plan: Plan, *, eps: float
) -> tuple[Tensor, Plan]:
    """One scaling of the proximal problem, the step that DTP takes per mini-batch.

    Towards  argmin_P <P, C> + eps KL(P | P_prev):  K = exp(-C / eps) * P_prev, u = a / (K v),
    v' = b / (K' u), P = diag(u) K diag(v'). With two targets, z = log_odds and l = log_scale:

        q_i = sigmoid(z_i + (2 s_i - 1) / eps + l)      rows scaled
        m_i = k q_i / sum q                             columns scaled
        l'  = l + log(k / sum q) - log((n - k) / sum (1 - q)),   z'_i = z_i + (2 s_i - 1) / eps + l'

    With C fixed, t steps lead to the plan of entropy eps / t: the temperature falls by itself.

    The masks sum to k after every step, but the rows are right in the limit only: a mask may exceed
    1 meanwhile (at most k / sum q). Where eps is far below the spread of the scores the rows stay
    wrong for long, for one scaling moves l by a few units only.

    Args:
        scores, k, offsets: as in `soft_topk`; where k = n all masks are 1 and `plan` stands.
        plan: the last plan, a constant for autograd; `Plan.uniform(offsets)` at first.
        eps: weight of the proximal term, > 0.

    Returns:
        Masks m >= 0, shape (n,), in the dtype of the scores, differentiable in scores and k:
        dm_i/ds_j = (2 / eps) m_i (r_i delta_ij - r_j m_j / k), r = 1 - q; and the next plan.

    Raises:
        ValueError: as `soft_topk`, eps is no finite number above 0, or the plan is of others.

    Source: Li et al., DTP (arXiv:2307.08483); Xie et al., IPOT (arXiv:1802.04307), Algorithm 1 with
    one inner iteration.
    """
    check_eps(eps)
    check_inputs(scores, k, offsets, temperature=eps)
    if plan.log_odds.shape != scores.shape or plan.log_scale.shape != k.shape:
        raise ValueError("plan: it is of other segments; start from Plan.uniform(offsets)")
    ids = segment_ids(offsets)
    n, kept = offsets.diff().double(), k.double()  # (G,)
    solved = kept < n  # elsewhere all is kept, and nothing is left to decide
    kept = torch.where(solved, kept, n / 2)  # any number that has logarithms
    fixed = ~solved[ids]

    y = plan.log_odds + (2 * scores.double() - 1) / eps
    logit = y + plan.log_scale[ids]
    log_kept = kept.log() - _log_sum_by(logsigmoid(logit), ids, len(k))
    log_dropped = (n - kept).log() - _log_sum_by(logsigmoid(-logit), ids, len(k))
    mask = torch.exp(logsigmoid(logit) + log_kept[ids])
    mask = torch.where(fixed, torch.ones_like(mask), mask)
    with torch.no_grad():
        scale = torch.where(solved, plan.log_scale + log_kept - log_dropped, plan.log_scale)
        log_odds = torch.where(fixed, plan.log_odds, y + scale[ids])
    return mask.to(scores.dtype), Plan(log_odds, scale)


def check_eps(eps: float) -> None:
    """Refuse what is not a finite number above 0."""
    if not 0 < eps < math.inf:
        raise ValueError(f"eps: wanted a finite number above 0, got {eps!r}")


def _log_sum_by(logs: Tensor, ids: Tensor, count: int) -> Tensor:
    """Log of the sum of exp(logs) per segment, (n,) -> (count,)."""
    peak = logs.detach().new_full((count,), -torch.inf)
    peak = peak.scatter_reduce(0, ids, logs.detach(), "amax")
    return peak + torch.log(sum_by(torch.exp(logs - peak[ids]), ids, count))
