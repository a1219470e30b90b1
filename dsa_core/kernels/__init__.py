"""The one operator of this library: keep k of n in expectation, over ragged segments.

This file checks the arguments, picks a backend, and holds the documentation. `reference.py` is the
definition, one segment after the other; `fast.py` its twin in torch for all segments at once;
`triton.py` the fused one for a GPU. All pass the same tests.

    >>> import torch
    >>> from dsa_core.kernels import soft_topk
    >>> scores = torch.tensor([2.0, 0.0, 1.0, 1.0, 1.0, 1.0])  # two segments: 2 and 4 channels
    >>> soft_topk(scores, torch.tensor([1.0, 3.0]), torch.tensor([0, 2, 6]), temperature=1.0)
    tensor([0.7311, 0.2689, 0.7500, 0.7500, 0.7500, 0.7500])
"""

import os
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from dsa_core.errors import ConfigError, nearest
from dsa_core.kernels import fast, reference
from dsa_core.kernels.checks import check_inputs
from dsa_core.kernels.fast import Threshold
from dsa_core.kernels.segments import segment_ids, segment_sum

_NAMES = ("auto", "reference", "torch", "triton")


def soft_topk(
    scores: Tensor,
    k: Tensor,
    offsets: Tensor,
    *,
    temperature: float | Tensor,
    backend: str = "auto",
    check: bool = True,
) -> Tensor:
    """Keep k_g of the n_g channels of every segment g in expectation.

    Answers  p_i = sigmoid((s_i - t_g) / T_g)  with t_g such that  sum_{i in g} p_i = k_g.

    With s = log(importance), k = alpha C and T = 1 / beta2 this is DSA's keep probability under the
    expectation condition. With trainable s and T = eps / 2 it is DTP's transport mask between n
    channels and the two targets "dropped" and "kept". T -> 0 gives the hard top k.

    Args:
        scores: s, shape (n,), float32, float64 or bfloat16 (computed in float32), finite; all
            segments one after the other.
        k: expected number kept, shape (G,), float32 or float64, in (0, n_g]; k = n_g gives p = 1.
        offsets: shape (G + 1,), int64, from 0 to n, rising strictly: segment g is
            scores[offsets[g] : offsets[g + 1]].
        temperature: T > 0, in the unit of the scores; a float, or shape () or (G,).
        backend: "auto" ("triton" for float32 and bfloat16 on a CUDA device, else "torch"),
            "reference" (slow), "torch" or "triton". What is too long or too extreme for "triton" is
            handed to "torch".
        check: whether to read and refuse bad values. Without, "triton" never waits for the device,
            as `torch.compile` and CUDA graphs need it; a bad value then gives a bad answer, a
            segment of more than 65,536 channels a slow one, and nothing goes to "torch".

    Returns:
        Keep probabilities p, shape (n,), in the dtype of the scores; |sum p - k| / k is below 1e-5
        in float32 and 1e-10 in float64. The root is found in float64 in both cases, except by
        "triton", which computes in float32.

        Gradient, by the implicit function theorem, with w = p (1 - p):
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
    if check:
        t = check_inputs(scores, k, offsets, temperature=temperature)
    else:
        t = torch.as_tensor(temperature, dtype=torch.float64, device=scores.device).expand(len(k))
    name = resolve_backend(backend, like=scores)
    if name == "triton" and not (check and _beyond_triton(scores, offsets, t)):
        p: Tensor = torch.ops.dsa_core.soft_topk(scores, k, offsets, t)[0]  # compile can trace it
        return p
    wide = scores.float() if scores.dtype == torch.bfloat16 else scores
    twin = reference if name == "reference" else fast
    return twin.soft_topk(wide, k, offsets, temperature=t).to(scores.dtype)


def solve_threshold(
    scores: Tensor, k: Tensor, offsets: Tensor, *, temperature: float | Tensor
) -> Threshold:
    """Find the thresholds at which k_g channels of every segment g are kept in expectation.

    Solves  sum_{i in g} sigmoid((s_i - t_g) / T_g) = k_g  for t_g. The left side falls strictly in
    t, from n_g to 0, so the root is unique for 0 < k_g < n_g; for k_g = n_g it is -inf. Not
    differentiable: differentiate `soft_topk`.

    Arguments and errors are those of `soft_topk`.

    Returns:
        Root and residual, shape (G,), iterations, and converged, shape (G,), which is for the
        caller to read: nothing is raised where no threshold was found.
    """
    t = check_inputs(scores, k, offsets, temperature=temperature)
    return fast.solve_threshold(scores, k, offsets, temperature=t)


def resolve_backend(name: str, *, like: Tensor) -> str:
    """Turn a requested backend into one that can run here, on scores such as `like`.

    Raises:
        ConfigError: the name is unknown (the nearest right one is suggested), or that backend
            cannot run here.
    """
    if name == "auto":
        on_cuda = like.device.type == "cuda" and like.dtype != torch.float64
        return "triton" if on_cuda and _has_triton() else "torch"
    if name not in _NAMES:
        raise ConfigError(f"backend: unknown name {name!r}{nearest(str(name), _NAMES)}")
    if name == "triton" and not _has_triton():
        raise ConfigError(
            "backend: 'triton' is not available here: it needs the package triton and a CUDA "
            "device (or TRITON_INTERPRET=1, set before the start); there is 'reference', 'torch'. "
            "Use backend='auto'."
        )
    return name


def _has_triton() -> bool:
    """Whether the kernels can run: on a CUDA device, or in Triton's interpreter. Registers them."""
    if find_spec("triton") is None:
        return False
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        return False
    import_module("dsa_core.kernels.triton")
    return True


# What `torch.compiler.assume_constant_result` sets; but that imports torch._dynamo, half of the
# seconds that `import dsa_core` then takes.
_has_triton._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _beyond_triton(scores: Tensor, offsets: Tensor, temperature: Tensor) -> bool:
    """Whether a segment is too long for one program, or a score beyond a threshold's digits."""
    fused = import_module("dsa_core.kernels.triton")
    if len(scores) > fused.LONGEST and int(offsets.diff().max()) > fused.LONGEST:
        return True
    return bool(scores.abs().max() > fused.FARTHEST * temperature.min())
