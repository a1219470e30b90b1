"""Importance vectors with known answers, each with its derivation.

The operator under test: p_i = sigmoid((s_i - t) / T) with sum p = k.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class SoftTopKProblem(NamedTuple):
    """One segment, and what soft_topk must answer."""

    name: str
    scores: Tensor  # (n,) float64
    k: float
    temperature: float
    p: Tensor  # (n,) float64


def sigmoid(x: float) -> float:
    """Logistic function of one number."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def two_channels(distance: float, temperature: float) -> SoftTopKProblem:
    """Scores (d, 0), k = 1.

    sigmoid(a) + sigmoid(b) = 1 holds exactly when b = -a. With a = (d - t) / T and b = -t / T that
    gives t = d / 2, so p = (sigmoid(d / 2T), sigmoid(-d / 2T)).
    """
    half = distance / 2 / temperature
    p = torch.tensor([sigmoid(half), sigmoid(-half)], dtype=torch.float64)
    scores = torch.tensor([distance, 0.0], dtype=torch.float64)
    return SoftTopKProblem(f"two channels, d = {distance}", scores, 1.0, temperature, p)


def equal_scores(n: int, k: float, temperature: float) -> SoftTopKProblem:
    """All scores equal: all p are equal, and they sum to k, so p = k / n at every temperature."""
    scores = torch.full((n,), -3.7, dtype=torch.float64)
    p = torch.full((n,), k / n, dtype=torch.float64)
    return SoftTopKProblem(f"{n} equal scores, k = {k}", scores, k, temperature, p)


def from_threshold(scores: list[float], t: float, temperature: float) -> SoftTopKProblem:
    """Backwards: choose t, compute p, ask for k = sum p; the root is unique, so it must be t."""
    p = torch.tensor([sigmoid((s - t) / temperature) for s in scores], dtype=torch.float64)
    s = torch.tensor(scores, dtype=torch.float64)
    return SoftTopKProblem(f"threshold {t}", s, math.fsum(p.tolist()), temperature, p)


SOFT_TOPK_PROBLEMS = [
    two_channels(0.3, 1.0),
    two_channels(5.0, 0.1),
    two_channels(2.0, 1000.0),
    equal_scores(7, 2.0, 1e-3),
    equal_scores(64, 63.999, 1.0),
    equal_scores(1, 0.4, 2.0),
    from_threshold([0.0, 1.0, 4.0, 4.0, -2.0], 1.3, 0.7),
    from_threshold([0.0, 1.0, 4.0, 4.0, -2.0], 30.0, 1.0),
    from_threshold([0.2, 0.1, 0.7], 0.15, 0.01),
]
