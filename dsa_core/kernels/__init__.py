"""The one operator of this library: keep k of n in expectation, over ragged segments.

This file is the public door: it checks the arguments, picks a backend, and holds the documentation.
`reference.py` beside it is the definition in plain torch. A faster twin joins by one more row in
`_BACKENDS`, and must pass the same tests.

    >>> import torch
    >>> from dsa_core.kernels import soft_topk
    >>> scores = torch.tensor([2.0, 0.0, 1.0, 1.0, 1.0, 1.0])  # two segments: 2 and 4 channels
    >>> soft_topk(scores, torch.tensor([1.0, 3.0]), torch.tensor([0, 2, 6]), temperature=1.0)
    tensor([0.7311, 0.2689, 0.7500, 0.7500, 0.7500, 0.7500])
"""

import difflib
from typing import Protocol

import torch
from torch import Tensor

from dsa_core.errors import ConfigError
from dsa_core.kernels import reference
from dsa_core.kernels.reference import Threshold
from dsa_core.kernels.segments import inexactness, segment_ids, segment_sum

__all__ = [
    "Threshold",
    "backends",
    "check_inputs",
    "inexactness",
    "resolve_backend",
    "segment_ids",
    "segment_sum",
    "soft_topk",
    "solve_threshold",
]


class SoftTopK(Protocol):
    """Signature of a backend; its arguments are checked, the temperature is a tensor (G,)."""

    def __call__(
        self,
        scores: Tensor,
        k: Tensor,
        offsets: Tensor,
        *,
        temperature: Tensor,
        frozen: Tensor | None = None,
    ) -> Tensor:
        """Keep probabilities, shape (n,)."""
        ...


_BACKENDS: dict[str, SoftTopK] = {"reference": reference.soft_topk}
_NAMES = ("auto", "reference", "triton")


def soft_topk(
    scores: Tensor,
    k: Tensor,
    offsets: Tensor,
    *,
    temperature: float | Tensor,
    frozen: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Keep k_g of the n_g channels of every segment g in expectation.

    Answers  p_i = sigmoid((s_i - t_g) / T_g)  with t_g such that  sum_{i in g} p_i = k_g.

    With s = log(importance), k = alpha C and T = 1 / beta2 this is DSA's keep probability under the
    expectation condition. With trainable s and T = eps / 2 it is DTP's transport mask between n
    channels and the two targets "dropped" and "kept". T -> 0 gives the hard top k.

    Args:
        scores: s, shape (n,), float32 or float64, finite; all segments one after the other.
        k: expected number kept, shape (G,), float32 or float64, in (0, n_g]; k = n_g gives p = 1.
        offsets: shape (G + 1,), int64, from 0 to n, rising strictly: segment g is
            scores[offsets[g] : offsets[g + 1]].
        temperature: T > 0, in the unit of the scores; a float, or shape () or (G,).
        frozen: shape (n,), bool. A frozen channel has p = 1 exactly, and counts in k; so k_g must
            exceed the number of frozen channels of its segment, or equal n_g.
        backend: "auto" (today the reference on every device), "reference" or "triton".

    Returns:
        Keep probabilities p, shape (n,), in the dtype of the scores; |sum p - k| / k is below 1e-5
        in float32 and 1e-10 in float64. The root is found in float64 in both cases.

        Gradient, by the implicit function theorem, with w = p (1 - p) and w = 0 where frozen:
        dp_i/dk = w_i / sum w  and  dp_i/ds_j = (w_i delta_ij - w_i w_j / sum w) / T.  At k_g = n_g
        dp/dk is its limit softmax(-s / T), and dp/ds = 0. Once differentiable. There is no
        gradient for the temperature, which follows a schedule.

    Raises:
        ValueError: an argument is of the wrong type, shape or range; the segment is named.
        ConfigError: the backend is unknown or not installed.
        RuntimeError: no threshold was found (scores beyond about 1e300 temperatures).

    Source: Ning et al., DSA, ECCV 2020 (arXiv:2004.02164), sigmoid-log function and expectation
    condition; Li et al., DTP, ICCV 2023 (arXiv:2307.08483), in the closed form for two targets.
    """
    run = _BACKENDS[resolve_backend(backend)]
    t = check_inputs(scores, k, offsets, temperature=temperature, frozen=frozen)
    return run(scores, k, offsets, temperature=t, frozen=frozen)


def solve_threshold(
    scores: Tensor,
    k: Tensor,
    offsets: Tensor,
    *,
    temperature: float | Tensor,
    frozen: Tensor | None = None,
) -> Threshold:
    """Find the thresholds at which k_g channels of every segment g are kept in expectation.

    Solves  sum_{i in g} sigmoid((s_i - t_g) / T_g) = k_g  for t_g. The left side falls strictly in
    t, from n_g to 0, so the root is unique for 0 < k_g < n_g; for k_g = n_g it is -inf. Not
    differentiable: differentiate `soft_topk`.

    Args:
        scores: as in `soft_topk`, like the other arguments.
        k: expected number kept, shape (G,).
        offsets: shape (G + 1,).
        temperature: > 0, in the unit of the scores.
        frozen: shape (n,), bool, or None.

    Returns:
        `Threshold`: root (G,), residual (G,), iterations, converged (G,). Reading `converged` is
        the caller's business: nothing is raised.

    Raises:
        ValueError: as in `soft_topk`.
    """
    t = check_inputs(scores, k, offsets, temperature=temperature, frozen=frozen)
    return reference.solve_threshold(scores, k, offsets, temperature=t, frozen=frozen)


def backends() -> tuple[str, ...]:
    """Names of the backends that can run here."""
    return tuple(_BACKENDS)


def resolve_backend(name: str) -> str:
    """Turn a requested backend into one that can run here.

    Raises:
        ConfigError: the name is unknown (the nearest right one is suggested), or that backend is
            not part of this installation.
    """
    if name == "auto":
        return "reference"
    if name in _BACKENDS:
        return name
    if name in _NAMES:
        raise ConfigError(
            f"backend: {name!r} is not available in this installation; there is "
            f"{', '.join(map(repr, _BACKENDS))}. Use backend='auto'."
        )
    near = difflib.get_close_matches(str(name), _NAMES, n=1, cutoff=0.0)[0]
    raise ConfigError(
        f"backend: wanted one of {', '.join(map(repr, _NAMES))}, got {name!r}; "
        f"did you mean {near!r}?"
    )


@torch.no_grad()
def check_inputs(
    scores: Tensor,
    k: Tensor,
    offsets: Tensor,
    *,
    temperature: float | Tensor,
    frozen: Tensor | None,
) -> Tensor:
    """Refuse arguments that `soft_topk` cannot answer; every check that reads a value is here.

    On an accelerator each of them waits for the device.

    Returns:
        The temperature as one value per segment, shape (G,), float64, on the device of the scores.

    Raises:
        ValueError: naming the argument, the segment, what was wanted and what came.
    """
    floats = (torch.float32, torch.float64)
    _check_tensor("scores", scores, like=scores, dtypes=floats, shape=(-1,))
    n = len(scores)
    _check_tensor("offsets", offsets, like=scores, dtypes=(torch.int64,), shape=(-1,))
    _check_offsets(offsets, n)
    n_segments = len(offsets) - 1
    _check_tensor("k", k, like=scores, dtypes=floats, shape=(n_segments,))
    if frozen is not None:
        _check_tensor("frozen", frozen, like=scores, dtypes=(torch.bool,), shape=(n,))
    _check_finite(scores, offsets)
    _check_k(k, offsets, frozen)
    return _checked_temperature(temperature, scores, n_segments)


def _check_tensor(
    name: str, x: Tensor, *, like: Tensor, dtypes: tuple[torch.dtype, ...], shape: tuple[int, ...]
) -> None:
    """Type, dtype, shape (-1: any length) and device of one argument."""
    wanted = " or ".join(str(d).removeprefix("torch.") for d in dtypes)
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


def _check_k(k: Tensor, offsets: Tensor, frozen: Tensor | None) -> None:
    """0 <= frozen count < k <= n, or k = n."""
    sizes = offsets.diff()
    if (g := _first(~((k > 0) & (k <= sizes)))) is not None:
        raise ValueError(
            f"k: segment {g} has {int(sizes[g])} channels: wanted k in (0, {int(sizes[g])}], got "
            f"{float(k[g])}. k counts channels (k = ratio * size); clamp it if it may overshoot."
        )
    if frozen is None:
        return
    n_frozen = segment_sum(frozen.long(), offsets)
    if (g := _first((k <= n_frozen) & (k < sizes))) is not None:
        raise ValueError(
            f"k: segment {g} has {int(n_frozen[g])} frozen channels out of {int(sizes[g])}: wanted "
            f"k above {int(n_frozen[g])}, got {float(k[g])}. Frozen channels count in k."
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
