"""The quadratic form of latency: its terms, the widths to time, and the fit."""

import numpy as np
import torch
from torch import Tensor

from dsa_core.budget import Budget, macs_form
from dsa_core.channels import ChannelGraph

Pairs = tuple[tuple[int, int], ...]
DEVIATION = 0.7  # largest deviation of log ratios from their common level: a factor of 2


def connected_pairs(graph: ChannelGraph) -> Pairs:
    """Groups k <= j that meet in a layer: a_k a_j is a term of the MACs."""
    return tuple((k, j) for k, j in macs_form(graph).Q.nonzero().tolist() if k <= j)


def terms(alpha: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Evaluate every term of the form: 1, all a_k, then a_k a_j of the pairs.

    Every a_k is among them, though the MACs have only those whose layer meets a fixed side: memory
    traffic of BatchNorm, ReLU and additions grows with the width alone. Of alpha (n, K) the terms
    have shape (n, 1 + K + len(pairs)).
    """
    products = [alpha[:, k] * alpha[:, j] for k, j in pairs]
    return np.column_stack([np.ones(len(alpha)), alpha, *products])


def fit(alpha: np.ndarray, milliseconds: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Fit non-negative coefficients, so that more channels never cost less.

    Minimises  sum_i ((terms_i' c - t_i) / t_i)^2  over c >= 0: relative errors, as the budget is
    relative, of the times t > 0, shape (n,), at keep ratios of shape (n, K). Non-negative least
    squares (Lawson and Hanson) gives the exact minimum: c in milliseconds, shape (terms,).
    """
    from scipy.optimize import nnls  # a second, and only calibrating needs it

    rows = terms(alpha, pairs) / milliseconds[:, None]
    coefficients, _ = nnls(rows, np.ones(len(rows)))
    return coefficients


def errors(
    coefficients: np.ndarray, alpha: np.ndarray, milliseconds: np.ndarray, pairs: Pairs
) -> np.ndarray:
    """Relative errors |predicted - t| / t, shape (n,)."""
    return np.abs(terms(alpha, pairs) @ coefficients / milliseconds - 1)


def corners(sizes: Tensor, *, lowest: float, divisor: int) -> Tensor:
    """Widths at the ends: all channels, the fewest, and each group alone at its fewest.

    The fewest are those at the keep ratio `lowest`. Counts are int64, shape (K + 2, K).
    """
    least = allowed(torch.full((len(sizes),), lowest), sizes, divisor)
    one_by_one = sizes.repeat(len(sizes), 1)
    one_by_one.fill_diagonal_(0)
    one_by_one += torch.diag(least)
    return torch.cat([sizes[None], least[None], one_by_one])


def sampled(sizes: Tensor, n: int, *, lowest: float, divisor: int, seed: int) -> Tensor:
    """Evenly spread widths: a Latin hypercube around a level that itself varies.

    With independent groups nearly all networks would cost the same in total, and small ones would
    not occur. So a_k = level exp(d (2 u_k - 1)), clipped to [lowest, 1], with u from a Latin
    hypercube, and level and u each once per n-th of their range. Counts are int64, shape (n, K).
    """
    from scipy.stats import qmc  # a second, too

    u = torch.from_numpy(qmc.LatinHypercube(len(sizes) + 1, seed=seed).random(n))
    level = lowest + (1 - lowest) * u[:, :1]
    alpha = (level * (DEVIATION * (2 * u[:, 1:] - 1)).exp()).clamp(lowest, 1)
    return allowed(alpha, sizes, divisor)


def allowed(alpha: Tensor, sizes: Tensor, divisor: int) -> Tensor:
    """The nearest counts, at least one channel, raised to what the divisor allows."""
    counts = (alpha.double() * sizes).round().long().clamp_min(1)
    return Budget(macs=1.0, divisor=divisor).step_up(counts, sizes)
