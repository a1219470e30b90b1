"""Single moves of the logits of DCSS, as pure functions: multiplier, bend, pressure, tilt."""

import math

import torch
from torch import Tensor

from dsa_core.allocators.dcss_choice import Candidates, choice_probs, expected_ratios

EDGE = 1e-6  # an expected ratio comes this close to its bounds, in units of their distance
HALVINGS = 100


def covariance(pi: Tensor, values: Tensor, other: Tensor) -> Tensor:
    """Cov_pi(values, other) within every group, shape (K,); of values (K, J)."""
    mean = (pi * values).sum(1, keepdim=True)
    return (pi * (values - mean) * other).sum(1)


def multiplier(gain: Tensor, slope: Tensor, pi: Tensor, ratios: Tensor) -> tuple[Tensor, Tensor]:
    """What one unit of cost is worth, and how much the groups disagree on it.

    Choosing candidate j of group k costs F'_k x_kj, to first order. At an optimum on the budget all
    candidates that still have probability are equally good at one common multiplier:

        D_kj = dL/dpi_kj + lambda F'_k x_kj   is the same for every j with pi_kj > 0.

    Off it, lambda is the one that leaves the least disagreement, sum_k Var_pi(D_k):

        lambda = -sum_k F'_k Cov_k(x, dL/dpi) / sum_k F'_k^2 Var_k(x)

    It is also the one for which the step dpi = -pi (D - mean D) leaves the cost as it is, to first
    order. A group that has decided has no variance and no say.

    Args:
        gain: dL/dpi, shape (K, J).
        slope: F' = dF/dalpha at the expected ratios, shape (K,).
        pi: probabilities, shape (K, J).
        ratios: x, shape (K, J).

    Returns:
        lambda, and the weighted standard deviation of the groups' own -Cov / (F' Var) around it;
        both of shape (), in units of loss per dense cost, and 0 if every group has decided.
    """
    var, cov = covariance(pi, ratios, ratios), covariance(pi, ratios, gain)
    weight = slope.square() * var
    if float(weight.sum()) <= 1e-300:
        return slope.new_zeros(()), slope.new_zeros(())
    mean = -(slope * cov).sum() / weight.sum()
    own = -cov / (slope * var).clamp_min(1e-300)
    return mean, ((weight * (own - mean).square()).sum() / weight.sum()).sqrt()


def bend(candidates: Candidates, curvature: float) -> Tensor:
    """The logits before the data have spoken: a_kj = -curvature/2 (x_kj / h_k)^2, shape (K, J).

    h is the mean distance of a group's candidates. Tilted to any expected ratio, the choice is a
    bell around it, of standard deviation h sqrt(temperature / curvature): as the temperature falls
    the group decides on a candidate next to the expected ratio. From flat logits it would not: the
    tilt of a flat choice is a geometric series, likeliest at one of its ends at any temperature.
    """
    x, steps = candidates.ratios, (candidates.valid.sum(1) - 1).clamp_min(1)
    h = ((candidates.most - candidates.least) / steps).clamp_min(1e-12)
    return -curvature / 2 * (x / h[:, None]).square()


def far(candidates: Candidates, alpha: Tensor) -> Tensor:
    """How far each candidate lies from the expected ratio, squared: centred, mean square 1, (K, J).

    It is the gradient of the variance of a group's choice, up to a factor.
    """
    squares = candidates.centred((candidates.ratios - alpha[:, None]).square())
    rms = (squares.square().sum(1) / candidates.valid.sum(1)).sqrt()
    return squares / rms.clamp_min(1e-12)[:, None]


def tilt(logits: Tensor, candidates: Candidates, target: Tensor, temperature: float) -> Tensor:
    """Give every group the expected ratio that is asked for, and change its choice the least.

    The least in the sense of  min KL(pi' || pi)  s.t.  sum_j pi'_j x_j = target:  the answer is a
    tilt, pi'_j ~ pi_j exp(t x_j). The mean rises strictly in t, so t is found by halving. Bracket:
    with R the range of the logits and h the smallest distance of two candidates, at
    t h > R + log(J / EDGE) all other candidates together weigh less than EDGE beside the last.

    Args:
        logits: a, shape (K, J).
        candidates: of every group; one with a single candidate is left as it is.
        target: wanted expected ratios, shape (K,); held EDGE of the way inside the bounds.
        temperature: of the softmax.

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
    reach = (logit_range(scaled, candidates.valid) + math.log(x.shape[1] / EDGE)) / gap + 1
    lower, upper = -reach, reach
    for _ in range(HALVINGS):
        t = (lower + upper) / 2
        mean = expected_ratios(choice_probs(scaled + t[:, None] * x, candidates, 1.0), candidates)
        lower, upper = torch.where(mean < target, t, lower), torch.where(mean < target, upper, t)
    tilted = logits + temperature * upper[:, None] * x
    highest = tilted.masked_fill(~candidates.valid, -torch.inf).amax(1, keepdim=True)
    return (tilted - highest) * candidates.valid


def logit_range(logits: Tensor, valid: Tensor) -> Tensor:
    """Largest less smallest logit of every group, shape (K,)."""
    highest = logits.masked_fill(~valid, -torch.inf).amax(1)
    return highest - logits.masked_fill(~valid, torch.inf).amin(1)
