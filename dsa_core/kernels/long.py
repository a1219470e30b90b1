"""What `fast.py` does, for long segments: no sort, one segment after the other.

Newton's method on the logarithm of the smaller side of the condition, from the threshold of a
sample of the scores: four or five evaluations are usual, in pieces that stay in a cache.
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dsa_core.kernels.roots import find_root
from dsa_core.kernels.segments import sigmoid_sums

SAMPLE = 4096  # scores whose threshold is the first guess


def probabilities(
    scores: Tensor, k: Tensor, offsets: Tensor, temperature: Tensor, *, solve: Callable[..., Any]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Keep probabilities p, w / sum w, and w / T, with w = p (1 - p), and the residuals.

    `solve` (`fast.solve_threshold`) sees a sample of each segment only.

    Returns:
        The three, shape (n,), in the dtype of the scores; |sum p - k| / k, shape (G,), float64.
    """
    p, share, slope = (torch.empty_like(scores) for _ in range(3))
    residual = torch.zeros_like(temperature)
    for g, (a, b) in enumerate(itertools.pairwise(offsets.tolist())):
        s, kept, t = scores[a:b], k[g].double(), temperature[g]
        if kept >= b - a:
            p[a:b], slope[a:b] = 1.0, 0.0
            share[a:b] = torch.softmax(-s.double() / t, 0)
            continue
        few = s[:: -(-len(s) // SAMPLE)]
        ends, of_few = torch.tensor([0, len(few)], device=s.device), kept / (b - a) * len(few)
        pivot = solve(few, of_few[None], ends, temperature=t[None]).root[0]
        z = (s.double() - pivot) / t - _root(s, kept, t, pivot)
        every = torch.sigmoid(z)
        w = every * torch.sigmoid(-z)
        p[a:b], share[a:b], slope[a:b] = every, w / w.sum(), w / t
        residual[g] = (every.sum() - kept).abs() / kept
    return p, share, slope, residual


def _root(s: Tensor, k: Tensor, temperature: Tensor, pivot: Tensor) -> Tensor:
    """Find u with  sum_i sigmoid((s_i - pivot) / T - u) = k, shape (), float64.

    The smaller of the two sides is solved for, as sum sigmoid(y - v) = c: if more than half is
    kept, what is dropped, y = (pivot - s) / T and v = -u. So c has all its digits, and the
    logarithm of the sum is concave with slopes in [-1, 0]. Bounds: as in `reference.threshold`.
    Where a range of u has the sum c to the last bit, its lower end: there w is not 0 everywhere.
    """
    n, sign = len(s), (1.0 if k <= len(s) / 2 else -1.0)
    c, scale = torch.minimum(k, n - k), sign / temperature
    whole = torch.tensor([0, n], device=s.device)

    def step(v: Tensor) -> Tensor:
        mass, weight = (x[0] for x in sigmoid_sums(s, whole, origin=pivot, scale=scale, t=v))
        return (c.log() - mass.log()) * mass / weight

    ends = (torch.stack(s.aminmax()).double() - pivot) * scale
    slack = 1 + 1e-9 * ends.abs().max()
    bounds = ends.sort().values - (c.log() - (n - c).log()) + torch.stack([-slack, slack])
    return sign * find_root(step, *bounds, start=torch.zeros_like(pivot).clamp(*bounds))[0]
