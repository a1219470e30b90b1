"""soft_topk one segment at a time, by SciPy's scalar root finder: slow and obviously right."""

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import expit, log_expit, logsumexp
from torch import Tensor


def threshold(scores: np.ndarray, k: float, temperature: float) -> float:
    """Root of sum sigmoid((s - t) / T) = k; in logs of the smaller side, so tiny k is exact."""
    n = len(scores)

    def excess(t: float) -> float:
        if k <= n / 2:
            return float(logsumexp(log_expit((scores - t) / temperature)) - np.log(k))
        return float(np.log(n - k) - logsumexp(log_expit((t - scores) / temperature)))

    # each p_i at min s (max s) minus T logit(k / n) is at least (at most) k / n
    logit = np.log(k) - np.log(n - k)
    slack = 1e-9 * (1 + abs(logit)) * temperature
    low = scores.min() - temperature * logit - slack
    high = scores.max() - temperature * logit + slack
    return float(brentq(excess, low, high, xtol=1e-300, rtol=1e-15, maxiter=500))


def keep_probs(scores: Tensor, k: Tensor, offsets: Tensor, temperature: float) -> Tensor:
    """p of every segment, float64, shape (n,)."""
    parts = []
    for g in range(len(k)):
        s = scores[offsets[g] : offsets[g + 1]].double().numpy()
        if float(k[g]) == len(s):
            parts.append(np.ones_like(s))
        else:
            t = threshold(s, float(k[g]), temperature)
            parts.append(expit((s - t) / temperature))
    return torch.from_numpy(np.concatenate(parts))


def jacobians(p: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(dp/ds, dp/dk) of one segment from p alone: shapes (n, n) and (n,)."""
    w = p * (1 - p)
    share = w / w.sum()
    return (torch.diag(w) - torch.outer(w, share)) / temperature, share
