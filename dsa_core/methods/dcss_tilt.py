"""Exponential tilting of a choice: slope along the tilt, initial logits, pressure to decide."""

import math

import torch
from torch import Tensor

from dsa_core.kernels.roots import find_root
from dsa_core.methods.dcss_choice import Candidates, choice_probs, expected_ratios

EDGE = 1e-6  # expected ratios stay this far from their bounds, as a share of the range


def covariance(pi: Tensor, values: Tensor, other: Tensor) -> Tensor:
    """Cov_pi(values, other) within every group, shape (K,); of values (K, J)."""
    mean = (pi * values).sum(1, keepdim=True)
    return (pi * (values - mean) * other).sum(1)


def ratio_slope(gain: Tensor, pi: Tensor, candidates: Candidates) -> Tensor:
    """The gradient of the loss with respect to the expected keep ratios, along the tilt, (K,).

    pi_j ~ exp(a_j + t x_j) gives dpi_j/dt = pi_j (x_j - alpha) and dalpha/dt = Var(x), hence

        dL/dalpha = sum_j dL/dpi_j pi_j (x_j - alpha) / Var(x) = Cov(x, dL/dpi) / Var(x),

    the regression slope of dL/dpi, the `gain`, on x. It stays meaningful as the group decides:
    between two candidates it is the difference of their dL/dpi over the difference of their ratios.
    It is 0 for a group with a single candidate.
    """
    x = candidates.ratios
    return covariance(pi, x, gain) / covariance(pi, x, x).clamp_min(1e-300)


def bell_logits(candidates: Candidates, curvature: float) -> Tensor:
    """The initial logits: a_kj = -curvature/2 (x_kj / h_k)^2, shape (K, J).

    h is the mean distance of a group's candidates. Tilted to any expected ratio, the choice is a
    bell around it, of standard deviation h sqrt(temperature / curvature): as the temperature falls,
    the group decides on a candidate next to the expected ratio. From flat logits it would not: the
    tilt of a flat choice is a geometric series, which peaks at one of its ends at any temperature.
    """
    x, steps = candidates.ratios, (candidates.valid.sum(1) - 1).clamp_min(1)
    h = ((candidates.most - candidates.least) / steps).clamp_min(1e-12)
    return -curvature / 2 * (x / h[:, None]).square()


def variance_gradient(candidates: Candidates, alpha: Tensor) -> Tensor:
    """How far each candidate lies from the expected ratio, squared: centred, mean square 1, (K, J).

    It is the gradient of the variance of a group's choice, up to a factor.
    """
    squares = candidates.centred((candidates.ratios - alpha[:, None]).square())
    rms = (squares.square().sum(1) / candidates.valid.sum(1)).sqrt()
    return squares / rms.clamp_min(1e-12)[:, None]


def tilt(logits: Tensor, candidates: Candidates, target: Tensor, temperature: float) -> Tensor:
    """Give every group a target expected ratio, changing its choice as little as possible.

    Solves  min KL(pi' || pi)  s.t.  sum_j pi'_j x_j = target  by exponential tilting:
    pi'_j ~ pi_j exp(t x_j). The mean rises strictly in t, with slope Var(x), so t is found by
    Newton's method, kept inside a bracket by bisection. Bracket: with R the range of the logits and
    h the smallest distance of two candidates, at t h > R + log(J / EDGE) all other candidates
    together weigh less than EDGE relative to the last.

    Args:
        logits: a, shape (K, J); a group with a single candidate is unchanged.
        candidates: x, their keep ratios.
        target: expected ratios, shape (K,); clamped to EDGE of the range inside the bounds.
        temperature: of the softmax, > 0.

    Returns:
        Logits a + temperature t x, largest entry 0, shape (K, J).
    """
    x = candidates.ratios
    if x.shape[1] == 1:
        return torch.zeros_like(logits)
    margin = EDGE * (candidates.most - candidates.least)
    target = target.maximum(candidates.least + margin).minimum(candidates.most - margin)
    scaled = logits / temperature
    gap = x.diff(dim=1).masked_fill(~candidates.valid[:, 1:], torch.inf).amin(1)
    lowest = scaled.masked_fill(~candidates.valid, torch.inf).amin(1)
    spread = scaled.masked_fill(~candidates.valid, -torch.inf).amax(1) - lowest
    reach = (spread + math.log(x.shape[1] / EDGE)) / gap + 1

    def step(t: Tensor) -> Tensor:
        pi = choice_probs(scaled + t[:, None] * x, candidates, 1.0)
        variance = covariance(pi, x, x).clamp_min(1e-300)  # dmean/dt
        return (expected_ratios(pi, candidates) - target) / variance

    t, _ = find_root(step, -reach, reach, nearly=1e-10)
    tilted = logits + temperature * t[:, None] * x
    highest = tilted.masked_fill(~candidates.valid, -torch.inf).amax(1, keepdim=True)
    return (tilted - highest) * candidates.valid
