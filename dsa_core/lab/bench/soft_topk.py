"""How long a forward and backward pass of soft_topk takes, against solving each group with SciPy.

The 30 channel groups of ResNet-56 (widths 16, 32, 64; 1120 channels) at keep ratio 0.5, float32.
Two peers solve group after group with SciPy's `root_scalar`:

- `by_group`: the way of the authors' released code, written from the paper's formulas. Per group an
  autograd function: p = 1 / (1 + (b / beta1)^-beta2) with exponents clipped to +-20, Brent's method
  on log beta1 inside [min log b, max log b] -+ 20 / beta2 at SciPy's default tolerance, backward
  dL/dalpha = C sum g w / sum w, both in NumPy; no gradient for b. (The released code brackets
  log beta1 by +-500 and stops at 0.02, which is rounder at both ends.)
- `by_scipy`: the least one can do with SciPy: no autograd, scores in logs, the tightest bracket,
  the sigmoid of scipy.special, all in one function; gradients of scores and counts.
"""

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.optimize import root_scalar
from scipy.special import expit
from torch import Tensor

from dsa_core.kernels import soft_topk
from dsa_core.lab.bench.figures import Figure, figure

WIDTHS = [16] * 10 + [32] * 10 + [64] * 10
RATIO = 0.5
Solver = Callable[..., list[Tensor]]


def problem(temperature: float) -> tuple[Tensor, Tensor, Tensor, float]:
    """Scores like log |gamma|, counts, offsets, temperature."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor(WIDTHS)
    scores = torch.rand(int(sizes.sum()), generator=generator).clamp_min(1e-3).log()
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    return scores, RATIO * sizes, offsets, temperature


def upstream(n: int) -> Tensor:
    """dL/dp of every channel: position / n."""
    return torch.arange(n, dtype=torch.float32) / n


def by_operator(scores: Tensor, k: Tensor, offsets: Tensor, temperature: float) -> list[Tensor]:
    """p, and the gradients of scores and k."""
    scores, k = scores.detach().requires_grad_(), k.detach().requires_grad_()
    p = soft_topk(scores, k, offsets, temperature=temperature)
    return [p.detach(), *torch.autograd.grad(p, (scores, k), upstream(len(p)))]


def by_scipy(scores: Tensor, k: Tensor, offsets: Tensor, temperature: float) -> list[Tensor]:
    """The same, one group after the other, in NumPy."""
    s, counts, edges = scores.double().numpy(), k.double().numpy(), offsets.numpy()
    p, grad_s, grad_k = np.empty_like(s), np.empty_like(s), np.empty_like(counts)
    weights = upstream(len(s)).numpy()
    for g, (a, b) in enumerate(itertools.pairwise(edges)):
        x, kept = s[a:b] / temperature, counts[g]
        logit = np.log(kept / (b - a - kept))
        bracket = (x.min() - logit - 1e-9, x.max() - logit + 1e-9)
        root = root_scalar(lambda t, x=x, kept=kept: expit(x - t).sum() - kept, bracket=bracket)
        q = expit(x - root.root)
        w = q * (1 - q)
        share, weight = w / w.sum(), weights[a:b]
        p[a:b], grad_k[g] = q, share @ weight
        grad_s[a:b] = w / temperature * (weight - grad_k[g])
    return [torch.from_numpy(y).float() for y in (p, grad_s, grad_k)]


class _OneGroup(torch.autograd.Function):
    """p of one group as a function of its keep ratio, as the paper has it."""

    @staticmethod
    def forward(ctx: Any, alpha: Tensor, importance: Tensor, beta2: float) -> Tensor:
        b, wanted = importance.numpy().astype(np.float64), alpha.item()

        def keep_prob(log_beta1: float) -> np.ndarray:
            exponent = np.clip(beta2 * (log_beta1 - np.log(b)), -20.0, 20.0)
            return 1 / (1 + np.exp(exponent))

        ends = np.log(b.min()) - 20 / beta2, np.log(b.max()) + 20 / beta2
        solved = root_scalar(lambda x: keep_prob(x).mean() - wanted, bracket=ends)
        p = keep_prob(solved.root)
        ctx.w = p * (1 - p)
        return torch.from_numpy(p).float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        w, g = ctx.w, grads[0].numpy()
        return torch.tensor(len(w) * (g @ w) / w.sum(), dtype=torch.float32), None, None


def by_group(scores: Tensor, k: Tensor, offsets: Tensor, temperature: float) -> list[Tensor]:
    """p, and the gradient of k; there is none of the scores."""
    importance = scores.exp()
    sizes = offsets.diff()
    alpha = (k / sizes).requires_grad_()
    parts = zip(alpha.unbind(), importance.split(sizes.tolist()), strict=True)
    p = torch.cat([_OneGroup.apply(a, b, 1 / temperature) for a, b in parts])
    (grad,) = torch.autograd.grad(p, alpha, upstream(len(p)))
    return [p.detach(), grad / sizes]


def seconds(solve: Solver, arguments: tuple[Any, ...], calls: int) -> float:
    """CPU time of one call, as the mean of a few: waiting for a busy core is not in it."""
    start = time.process_time()
    for _ in range(calls):
        solve(*arguments)
    return (time.process_time() - start) / calls


def speedup(peer: Solver, *, temperature: float, rounds: int = 60) -> Figure:
    """How many times faster than a peer, both in turn: a busy machine slows both."""
    arguments = problem(temperature)
    for solve in (by_operator, peer):
        seconds(solve, arguments, 5)  # caches fill
    values = [
        seconds(peer, arguments, 2) / seconds(by_operator, arguments, 10) for _ in range(rounds)
    ]
    return figure(values, "times", f"{peer.__name__}, temperature {temperature}, CPU time")
