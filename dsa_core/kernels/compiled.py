"""The loops of `soft_topk` on a CPU, compiled by Numba: one segment after the other, in float64.

The equations are those of `reference.py`, from top to bottom: standardise, find the root, evaluate.
Loops over plain numbers need no layout for ragged segments, and each exponential only once. What is
more than 300 temperatures from its pivot is treated as if it were at 300; where the answer would
depend on it (a plateau between two far edges, a sum that misses k), the segment is given up, and
the caller asks the reference.

Compiled code is kept beside this file, or in the user's cache folder, so that only the first call
on a machine waits for the compiler (seconds).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])
Floats = NDArray[np.float64]
Scores = NDArray[np.float32] | NDArray[np.float64]
Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]

MAX_ITERATIONS = 60
FAR = 300.0  # temperatures: exp(FAR)^2 is a float64
FLAT = 1e-60  # a sum of p (1 - p) below it is a plateau, whose shares need logarithms


def compiled(function: F) -> F:
    """Compile at the first call; without a folder to write to, in every process anew."""
    make: Any = partial(numba.njit, nogil=True, error_model="numpy")
    try:
        made: F = make(cache=True)(function)
    except RuntimeError:  # Numba found no folder
        made = make()(function)
    return made


@compiled
def in_order(scores: Scores, k: Scores, offsets: Indices) -> bool:
    """Whether offsets rise from 0 to n, scores are finite, and 0 < k <= the segment's length."""
    if len(offsets) != len(k) + 1 or len(k) == 0 or offsets[0] != 0 or offsets[-1] != len(scores):
        return False
    for g in range(len(k)):
        if not 0 < k[g] <= offsets[g + 1] - offsets[g]:
            return False
    for s in scores:  # noqa: SIM110 - a loop, for the compiler
        if not np.isfinite(s):
            return False
    return True


@compiled
def solve(
    scores: Scores,
    k: Floats,
    offsets: Indices,
    temperature: Floats,
    frozen: Flags,
    nearly: float,
    accuracy: float,
    p: Scores,
    share: Floats,
    slope: Floats,
) -> bool:
    """Write the probabilities of all segments, and what their derivatives need.

    Args:
        scores: shape (n,).
        k: expected number kept, shape (G,).
        offsets: shape (G + 1,).
        temperature: shape (G,).
        frozen: shape (n,), or (0,) for none.
        nearly: |phi| that one more Newton step, which squares it, makes small enough.
        accuracy: of sum p, as a share of min(k, n - k).
        p: shape (n,), written.
        share: dp/dk, shape (n,), written.
        slope: p (1 - p) / T, 0 where k = n; shape (n,), written.

    Returns:
        Whether every segment has its answer.
    """
    longest = 0
    for g in range(len(k)):
        longest = max(longest, offsets[g + 1] - offsets[g])
    position = np.empty(longest, np.int64)
    x = np.empty(longest, np.float64)
    for g in range(len(k)):
        n = 0
        for i in range(offsets[g], offsets[g + 1]):
            if len(frozen) > 0 and frozen[i]:
                p[i], share[i], slope[i] = 1.0, 0.0, 0.0
            else:
                position[n], x[n] = i, scores[i]
                n += 1
        kept = k[g] - (offsets[g + 1] - offsets[g] - n)
        if kept >= n:
            keep_all(x[:n], position[:n], temperature[g], p, share, slope)
            continue
        edge, top = standardise(x[:n], position[:n], kept, temperature[g]), int(np.rint(kept))
        for j in range(n):
            x[j] = np.exp(x[j] if j < top else -x[j])
        u = find_root(x[:n], top, kept, edge, nearly)
        missing = evaluate(x[:n], top, u, kept, position[:n], temperature[g], p, share, slope)
        if not missing <= accuracy * min(kept, n - kept):
            return False
    return True


@compiled
def keep_all(
    x: Floats, position: Indices, t: float, p: Scores, share: Floats, slope: Floats
) -> None:
    """k = n: p = 1, dp/ds = 0, and dp/dk in its limit softmax(-s / T)."""
    if len(x) == 0:
        return
    least, total = x.min(), 0.0
    for j in range(len(x)):
        x[j] = np.exp((least - x[j]) / t)
        total += x[j]
    for j in range(len(x)):
        i = position[j]
        p[i], share[i], slope[i] = 1.0, x[j] / total, 0.0


@compiled
def standardise(x: Floats, position: Indices, kept: float, t: float) -> float:
    """Put the floor(k) largest scores first, then the next, the pivot; all in T above the pivot.

    So the round(k) largest, the top, come first in both cases. Nothing else is sorted.

    Args:
        x: scores, shape (n,), changed in place.
        position: where they stand, shape (n,), changed alike.
        kept: k, 0 < k < n.
        t: temperature.

    Returns:
        x of the ceil(k)-th largest: 0 for fractional k, where that is the pivot.
    """
    below = int(np.floor(kept))
    select(x, position, below)
    pivot = x[below]
    for j in range(len(x)):
        x[j] = max(-FAR, min(FAR, (x[j] - pivot) / t))
    return 0.0 if kept > below else x[:below].min()


@compiled
def select(x: Floats, position: Indices, rank: int) -> None:
    """Quickselect: x[:rank] >= x[rank] >= x[rank + 1:]; positions move along."""
    low, high = 0, len(x) - 1
    while low < high:
        pivot, i, j = x[(low + high) // 2], low, high
        while i <= j:
            while x[i] > pivot:
                i += 1
            while x[j] < pivot:
                j -= 1
            if i <= j:
                x[i], x[j] = x[j], x[i]
                position[i], position[j] = position[j], position[i]
                i, j = i + 1, j - 1
        if rank <= j:
            high = j
        elif rank >= i:
            low = i
        else:
            return


@compiled
def find_root(odds: Floats, top: int, kept: float, edge: float, nearly: float) -> float:
    """Newton on phi = log A - log B of `reference._imbalance`, inside a bracket that shrinks.

    The step after the last evaluation is not evaluated: phi is squared by it.

    Args:
        odds: exp(x) in the top, exp(-x) behind it: of the right decision at u = 0; shape (n,).
        top: round(k).
        kept: k.
        edge: x of the ceil(k)-th largest, see `reference._bracket`.
        nearly: |phi| at which to stop.

    Returns:
        u in temperatures above the pivot; NaN if it is beyond what `odds` resolve.
    """
    n = len(odds)
    lower = np.log(np.floor(kept) + 1 - kept) - np.log(kept) - 1
    upper = edge + np.log(n - kept) - np.log(kept - np.ceil(kept) + 1) + 1
    u = (lower + upper) / 2
    for _ in range(MAX_ITERATIONS):
        if not abs(u) < FAR:
            return np.nan
        a, a_slope = mass(odds[:top], np.exp(-u), max(kept - top, 0.0))
        b, b_slope = mass(odds[top:], np.exp(u), max(top - kept, 0.0))
        phi = np.log(a / b)
        newton = u - phi / (a_slope / a + b_slope / b)
        if abs(phi) <= nearly:
            return newton
        if phi < 0:
            lower = u
        else:
            upper = u
        u = newton if lower < newton < upper else (lower + upper) / 2
    return np.nan


@compiled
def mass(odds: Floats, factor: float, carry: float) -> tuple[float, float]:
    """A side's carry plus its sum of q = 1 / (1 + odds factor), and the sum of q (1 - q)."""
    total, squares = 0.0, 0.0
    for j in range(len(odds)):
        q = 1 / (1 + odds[j] * factor)
        total += q
        squares += q * q
    return carry + total, total - squares


@compiled
def evaluate(
    odds: Floats,
    top: int,
    u: float,
    kept: float,
    position: Indices,
    t: float,
    p: Scores,
    share: Floats,
    slope: Floats,
) -> float:
    """Write a segment's p and its derivatives; return |sum p - k|, NaN on a plateau."""
    up, down, weights, wrong = np.exp(u), np.exp(-u), 0.0, top - kept
    for j in range(len(odds)):
        q = 1 / (1 + odds[j] * (down if j < top else up))
        i, w = position[j], q * (1 - q)
        p[i] = 1 - q if j < top else q
        share[i], slope[i] = w, w / t
        weights += w
        wrong += -q if j < top else q
    if not weights >= FLAT:
        return np.nan
    for j in range(len(odds)):
        share[position[j]] /= weights
    return abs(wrong)


@compiled
def gradients(
    grad: Scores, share: Floats, slope: Floats, offsets: Indices, grad_s: Scores, grad_k: Scores
) -> None:
    """Write  grad_k = sum share g  and  grad_s = slope (g - grad_k); (n,), (n,), (n,), (G + 1,)."""
    for g in range(len(grad_k)):
        total = 0.0
        for i in range(offsets[g], offsets[g + 1]):
            total += share[i] * grad[i]
        grad_k[g] = total
        for i in range(offsets[g], offsets[g + 1]):
            grad_s[i] = slope[i] * (grad[i] - total)
