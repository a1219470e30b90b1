"""`soft_topk` on a CPU: compiled loops between torch's tensors and torch's gradients.

Tens of short segments cost hardly any arithmetic: plain torch spends its time on starting some 200
operations for a forward and a backward pass. `compiled.py` has the loops; here they are given
arrays and a place in autograd. Where they give up (scores hundreds of temperatures apart), the
reference answers.
"""

from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from dsa_core.kernels import reference

ACCURACY = {torch.float32: 1e-7, torch.float64: 1e-11}  # |sum p - k| / min(k, n - k)
_NEARLY = {torch.float32: 1e-4, torch.float64: 1e-6}  # |phi|, which one more Newton step squares
_NONE = np.zeros(0, dtype=np.bool_)


class _Solved(NamedTuple):
    """Probabilities, and what their derivatives need; NumPy."""

    p: NDArray[Any]  # (n,) in the dtype of the scores
    share: NDArray[np.float64]  # (n,) dp/dk
    slope: NDArray[np.float64]  # (n,) p (1 - p) / T; 0 where k = n
    offsets: NDArray[np.int64]  # (G + 1,)


@cache
def loops() -> Any:
    """The module `compiled`; importing Numba takes part of a second, which not every user needs."""
    return import_module("dsa_core.kernels.compiled")


def soft_topk(
    scores: Tensor,
    k: Tensor,
    offsets: Tensor,
    *,
    temperature: Tensor,
    frozen: Tensor | None = None,
) -> Tensor:
    """Keep k of n in expectation; see `dsa_core.kernels.soft_topk`, which checks its arguments."""
    solved = _solve(scores, k, offsets, temperature, frozen)
    if solved is None:
        return reference.soft_topk(scores, k, offsets, temperature=temperature, frozen=frozen)
    if torch.is_grad_enabled() and (scores.requires_grad or k.requires_grad):
        p: Tensor = _SoftTopK.apply(scores, k, solved)
        return p
    return torch.from_numpy(solved.p)


def _solve(
    scores: Tensor, k: Tensor, offsets: Tensor, temperature: Tensor, frozen: Tensor | None
) -> _Solved | None:
    """Probabilities of all segments, or None where the reference must answer."""
    s, edges = _array(scores), _array(offsets).copy()  # the caller may change them in place
    p, share, slope = np.empty_like(s), np.empty(len(s)), np.empty(len(s))
    done = loops().solve(
        s,
        _array(k).astype(np.float64),
        edges,
        _array(temperature),
        _NONE if frozen is None else _array(frozen),
        _NEARLY[scores.dtype],
        ACCURACY[scores.dtype],
        p,
        share,
        slope,
    )
    return _Solved(p, share, slope, edges) if done else None


def _array(x: Tensor) -> NDArray[Any]:
    """Its values, one after the other in memory."""
    return x.detach().contiguous().numpy()


class _SoftTopK(torch.autograd.Function):
    """A solved p as a function of scores and k; see `reference._SoftTopK.backward`."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: Tensor, solved: _Solved) -> Tensor:
        ctx.solved, ctx.k_dtype = solved, k.dtype
        return torch.from_numpy(solved.p)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """grad_k = sum share g; grad_s = slope (g - grad_k). Once differentiable."""
        if torch.is_grad_enabled():  # asked for a graph: only then is the guard worth its time
            guarded: tuple[Tensor | None, ...] = once_differentiable(_gradients)(ctx, *grads)
            return guarded
        return _gradients(ctx, *grads)


def _gradients(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    """The backward pass."""
    _, share, slope, offsets = ctx.solved
    grad = _array(grads[0])
    grad_s = torch.empty(len(grad), dtype=grads[0].dtype)
    grad_k = torch.empty(len(offsets) - 1, dtype=ctx.k_dtype)
    loops().gradients(grad, share, slope, offsets, grad_s.numpy(), grad_k.numpy())
    return grad_s, grad_k, None
