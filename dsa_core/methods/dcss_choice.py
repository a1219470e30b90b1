"""A relaxed choice between keep counts: candidates, probabilities, and one aggregated mask."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsa_core.budget import Budget, Cost


@dataclass(frozen=True)
class Candidates:
    """The keep counts each group may choose from.

    Attributes:
        counts: kept channels, ascending within a row, int64, shape (K, J); a row with fewer
            candidates repeats its last.
        valid: which entries are candidates, bool, shape (K, J).
        ratios: counts / channels of the group, float64, shape (K, J).
    """

    counts: Tensor
    valid: Tensor
    ratios: Tensor

    @property
    def least(self) -> Tensor:
        """The smallest keep ratio of every group, shape (K,)."""
        return self.ratios[:, 0]

    @property
    def most(self) -> Tensor:
        """The largest keep ratio of every group, shape (K,)."""
        return self.ratios[:, -1]

    def centred(self, values: Tensor) -> Tensor:
        """Values (K, J) minus the mean over their group; 0 where there is no candidate."""
        mean = (values * self.valid).sum(1) / self.valid.sum(1)
        return (values - mean[:, None]) * self.valid


def candidates_of(cost: Cost, budget: Budget, fractions: Sequence[float]) -> Candidates:
    """Turn fractions, ascending in (0, 1], into keep counts that floors and divisor allow."""
    least = budget.least_counts(cost)
    rows = []
    for size, floor in zip(cost.sizes.tolist(), least.tolist(), strict=True):
        wanted = (torch.tensor(fractions, dtype=torch.float64) * size).round().long().clamp_min(1)
        allowed = budget.step_up(wanted, torch.tensor(size)).clamp_min(floor)
        rows.append(allowed.unique())
    longest = max(len(row) for row in rows)
    counts = torch.stack([torch.cat([r, r[-1:].expand(longest - len(r))]) for r in rows])
    valid = torch.arange(longest) < torch.tensor([len(r) for r in rows])[:, None]
    return Candidates(counts, valid, counts.double() / cost.sizes[:, None])


def choice_probs(logits: Tensor, candidates: Candidates, temperature: float) -> Tensor:
    """pi = softmax(a / temperature) over the candidates of every group, shape (K, J).

    The choice becomes hard as the temperature goes to 0; padding entries get probability 0.

    Source: Zhao and Lee, DCSS (arXiv:2010.14714), relaxation over candidate sparsities.
    """
    return (logits / temperature).masked_fill(~candidates.valid, -torch.inf).softmax(1)


def expected_ratios(pi: Tensor, candidates: Candidates) -> Tensor:
    """alpha_k = sum_j pi_kj c_kj / C_k, the expected keep ratio of every group, shape (K,)."""
    return (pi * candidates.ratios).sum(1)


def staircase(pi: Tensor, counts: Tensor, ranks: Tensor, groups: Tensor) -> Tensor:
    """The aggregated mask of a mixture of candidates.

        m_i = sum_j pi_kj [rank_i < c_kj],   k the group of channel i

    Candidates are nested (each keeps the c most important channels), so within a group the mask is
    a falling staircase in the rank, with a step at every candidate. A layer is linear in its input,
    so  sum_j pi_j conv(M_j h) = conv((sum_j pi_j M_j) h): one convolution serves all candidates,
    which share its weights. And sum_i m_i = sum_j pi_kj c_kj: the mask sums to the expected count.

    Args:
        pi, counts: of the candidates, shape (K, J); counts int64.
        ranks, groups: of every channel its place in its group, and its group, int64, shape (n,);
            see `kernels.segments`.

    Returns:
        Mask, shape (n,), in [0, 1], in the dtype of pi; linear in pi.

    Source: Zhao and Lee, DCSS (arXiv:2010.14714), weight sharing within filters; derived.
    """
    return (pi[groups] * (ranks[:, None] < counts[groups])).sum(1)
