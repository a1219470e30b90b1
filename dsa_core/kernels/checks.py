"""Checks of the arguments of `soft_topk`: one that has no answer is refused here, by name."""

import torch
from torch import Tensor

_FLOATS = (torch.float32, torch.float64)
_SCORES = (*_FLOATS, torch.bfloat16)


@torch.no_grad()
def check_inputs(
    scores: Tensor, k: Tensor, offsets: Tensor, *, temperature: float | Tensor
) -> Tensor:
    """Refuse arguments that `soft_topk` cannot answer; every check that reads a value is here.

    Returns:
        The temperature as one value per segment, shape (G,), float64, on the device of the scores.

    Raises:
        ValueError: naming the argument, the segment, what was wanted and what came.
    """
    _check_tensor("scores", scores, like=scores, dtypes=_SCORES, shape=(-1,))
    n = len(scores)
    _check_tensor("offsets", offsets, like=scores, dtypes=(torch.int64,), shape=(-1,))
    _check_offsets(offsets, n)
    n_segments = len(offsets) - 1
    _check_tensor("k", k, like=scores, dtypes=_FLOATS, shape=(n_segments,))
    _check_finite(scores, offsets)
    _check_k(k, offsets)
    return _checked_temperature(temperature, scores, n_segments)


def _check_tensor(
    name: str, x: Tensor, *, like: Tensor, dtypes: tuple[torch.dtype, ...], shape: tuple[int, ...]
) -> None:
    """Type, dtype, shape (-1: any length) and device of one argument."""
    *others, last = (str(d).removeprefix("torch.") for d in dtypes)
    wanted = f"{', '.join(others)} or {last}" if others else last
    if not isinstance(x, Tensor) or x.dtype not in dtypes:
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name}: wanted a tensor of {wanted}, got {got}; convert it first.")
    if x.dim() != len(shape) or (shape != (-1,) and x.shape != shape):
        size = "(any length,)" if shape == (-1,) else str(tuple(shape))
        raise ValueError(
            f"{name}: wanted shape {size}, got {tuple(x.shape)}. All segments lie in one flat "
            "vector; k has one value per segment, offsets one more than there are segments."
        )
    if x.device != like.device:
        raise ValueError(f"{name}: wanted on {like.device} like scores, got {x.device}.")


def _check_offsets(offsets: Tensor, n: int) -> None:
    """From 0 to n, rising strictly."""
    if len(offsets) < 2:
        raise ValueError(
            f"offsets: wanted at least 2 entries (one segment), got {len(offsets)}; "
            "for one segment give [0, n]."
        )
    if int(offsets[0]) != 0 or int(offsets[-1]) != n:
        raise ValueError(
            f"offsets: wanted to run from 0 to n = {n}, got {int(offsets[0])} to "
            f"{int(offsets[-1])}; every score belongs to exactly one segment."
        )
    if (g := _first(offsets.diff() <= 0)) is not None:
        raise ValueError(
            f"offsets: segment {g} runs from {int(offsets[g])} to {int(offsets[g + 1])}; wanted "
            "strictly rising offsets. Leave empty segments out."
        )


def _check_finite(scores: Tensor, offsets: Tensor) -> None:
    """No NaN and no infinity."""
    if (i := _first(~torch.isfinite(scores))) is not None:
        g = int(torch.searchsorted(offsets, i, right=True)) - 1
        raise ValueError(
            f"scores: segment {g}, position {i - int(offsets[g])}: wanted a finite number, got "
            f"{float(scores[i])}. If scores are logarithms, clamp the importance above 0 first."
        )


def _check_k(k: Tensor, offsets: Tensor) -> None:
    """0 < k <= n."""
    sizes = offsets.diff()
    if (g := _first(~((k > 0) & (k <= sizes)))) is not None:
        raise ValueError(
            f"k: segment {g} has {int(sizes[g])} channels: wanted k in (0, {int(sizes[g])}], got "
            f"{float(k[g])}. k counts channels (k = ratio * size); clamp it if it may overshoot."
        )


def _checked_temperature(temperature: float | Tensor, scores: Tensor, n_segments: int) -> Tensor:
    """One positive, finite temperature per segment, float64."""
    if isinstance(temperature, Tensor) and temperature.requires_grad:
        raise ValueError(
            "temperature: has no gradient (it follows a schedule), but requires_grad is True; "
            "pass temperature.detach()."
        )
    t = torch.as_tensor(temperature, dtype=torch.float64, device=scores.device)
    if t.shape not in ((), (n_segments,)):
        raise ValueError(
            f"temperature: wanted a float or shape () or ({n_segments},), one per segment, got "
            f"{tuple(t.shape)}."
        )
    t = t.expand(n_segments)
    if (g := _first(~((t > 0) & torch.isfinite(t)))) is not None:
        raise ValueError(
            f"temperature: segment {g}: wanted a finite number above 0, got {float(t[g])}. "
            "For a hard choice use a small one, such as 1e-3 of the spread of the scores."
        )
    return t


def _first(bad: Tensor) -> int | None:
    """Index of the first True, or None."""
    return int(bad.long().argmax()) if bool(bad.any()) else None
