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


def mirrored(half: list[float], temperature: float) -> SoftTopKProblem:
    """Scores come in pairs +a, -a, and k = n / 2.

    sigmoid(a / T) + sigmoid(-a / T) = 1 for every pair, so t = 0 solves the condition.
    """
    values = half + [-a for a in half]
    p = torch.tensor([sigmoid(a / temperature) for a in values], dtype=torch.float64)
    scores = torch.tensor(values, dtype=torch.float64)
    return SoftTopKProblem("mirrored scores", scores, float(len(half)), temperature, p)


def from_threshold(scores: list[float], t: float, temperature: float) -> SoftTopKProblem:
    """Backwards: choose t, compute p, ask for k = sum p; the root is unique, so it must be t."""
    p = torch.tensor([sigmoid((s - t) / temperature) for s in scores], dtype=torch.float64)
    s = torch.tensor(scores, dtype=torch.float64)
    return SoftTopKProblem(f"threshold {t}", s, math.fsum(p.tolist()), temperature, p)


def two_blocks(n_high: int, n_low: int, k: float) -> SoftTopKProblem:
    """a channels at +1, b at 0, T = 1: a quadratic equation.

    With y = exp(-t): sigmoid(1 - t) = e y / (1 + e y), sigmoid(-t) = y / (1 + y). The condition
    a e y (1 + y) + b y (1 + e y) = k (1 + e y) (1 + y) is
    e (a + b - k) y^2 + (a e + b - k (1 + e)) y - k = 0, with one positive root.
    """
    a, b, e = n_high, n_low, math.e
    c2, c1, c0 = e * (a + b - k), a * e + b - k * (1 + e), -k
    y = (-c1 + math.sqrt(c1 * c1 - 4 * c2 * c0)) / (2 * c2)
    p = [e * y / (1 + e * y)] * a + [y / (1 + y)] * b
    scores = torch.tensor([1.0] * a + [0.0] * b, dtype=torch.float64)
    return SoftTopKProblem(
        f"{a} high, {b} low", scores, k, 1.0, torch.tensor(p, dtype=torch.float64)
    )


SOFT_TOPK_PROBLEMS = [
    two_channels(0.3, 1.0),
    two_channels(5.0, 0.1),
    two_channels(2.0, 1000.0),
    equal_scores(7, 2.0, 1e-3),
    equal_scores(64, 63.999, 1.0),
    equal_scores(1, 0.4, 2.0),
    mirrored([0.1, 0.5, 2.5, 2.5], 0.5),
    from_threshold([0.0, 1.0, 4.0, 4.0, -2.0], 1.3, 0.7),
    from_threshold([0.0, 1.0, 4.0, 4.0, -2.0], 30.0, 1.0),
    from_threshold([0.2, 0.1, 0.7], 0.15, 0.01),
    two_blocks(3, 5, 2.5),
    two_blocks(1, 9, 9.5),
]
