"""What the commonest operators return, without numbers. Each answers as torch would, or with None.

torch's own implementation for the meta device goes through Python, a hundred times slower.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

aten = torch.ops.aten
Answer = Callable[..., Tensor | None]


def like_first(x: Tensor, *_: Any) -> Tensor | None:
    """Floating numbers of the same shape."""
    return x.detach() if x.is_floating_point() and x.is_contiguous() else None


def in_place(x: Tensor, *_: Any) -> Tensor:
    """The tensor itself."""
    return x


def like_both(x: Tensor, y: Any, *_: Any) -> Tensor | None:
    """Two tensors of one shape and type, or one and a number."""
    same = isinstance(y, float | int) or (
        isinstance(y, Tensor) and (y.shape, y.dtype) == (x.shape, x.dtype) and y.is_contiguous()
    )
    return like_first(x) if same else None


def batch_norm(x: Tensor, *rest: Any) -> Tensor | None:
    """The same for each channel; what belongs to channels has their number."""
    own = x.shape[1:2]
    fits = x.ndim > 1 and all(t.shape == own for t in rest if isinstance(t, Tensor))
    return like_first(x) if fits else None


def layer_norm(x: Tensor, shape: Sequence[int], *_: Any) -> Tensor | None:
    """The same over the last axes; in order, whatever the order of the input."""
    fits = x.is_floating_point() and list(x.shape[-len(shape) :]) == list(shape)
    return x.new_empty(x.shape) if fits else None


def softmax(x: Tensor, axis: int, dtype: torch.dtype | None = None) -> Tensor | None:
    """The same along an axis."""
    return like_first(x) if dtype is None and -x.ndim <= axis < x.ndim else None


def fits_layer(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether types and the length of the bias fit."""
    fits = bias is None or bias.shape == weight.shape[:1]
    return fits and x.dtype == weight.dtype and x.ndim > 1 and weight.numel() > 0


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """Other features on the last axis."""
    fits = fits_layer(x, weight, bias) and weight.ndim == 2 and x.shape[-1] == weight.shape[1]
    return x.new_empty((*x.shape[:-1], weight.shape[0])) if fits else None


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Tensor | None:
    """Other channels, on a grid of (n + 2 padding - dilation (kernel - 1) - 1) // stride + 1."""
    space = weight.ndim - 2
    fits = fits_layer(x, weight, bias) and x.ndim == weight.ndim and x.is_contiguous()
    if not fits or x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        return None
    way = [list(v) * (space if len(v) == 1 else 1) for v in (stride, padding, dilation)]
    grid = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(x.shape[2:], weight.shape[2:], *way, strict=True)
    ]
    return x.new_empty((x.shape[0], weight.shape[0], *grid)) if min(grid) > 0 else None


def concatenation(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    """One after the other."""
    first = tensors[0]
    if not -first.ndim <= dim < first.ndim:
        return None
    dim %= first.ndim
    for other in tensors:
        if other.dtype != first.dtype or other.ndim != first.ndim or not other.is_contiguous():
            return None
        pairs = zip(first.shape, other.shape, strict=True)
        if any(a != b for i, (a, b) in enumerate(pairs) if i != dim):
            return None
    shape = list(first.shape)
    shape[dim] = sum(t.shape[dim] for t in tensors)
    return first.new_empty(shape)


def pooled(x: Tensor, size: Sequence[int]) -> Tensor | None:
    """Means on a grid of the given size."""
    return x.new_empty((*x.shape[:-2], *size)) if x.ndim == 4 and x.is_contiguous() else None


UNARY = "relu silu gelu hardswish hardsigmoid hardtanh leaky_relu relu6 sigmoid elu mish tanh"
BINARY = "add sub mul div"
ANSWERS: dict[OpOverload, Answer] = {
    **{getattr(aten, name).default: like_first for name in UNARY.split()},
    **{getattr(aten, f"{name}_").default: in_place for name in UNARY.split()},
    **{getattr(aten, name).Tensor: like_both for name in BINARY.split()},
    aten.softmax.int: softmax,
    aten.batch_norm.default: batch_norm,
    aten.instance_norm.default: batch_norm,
    aten.layer_norm.default: layer_norm,
    aten.linear.default: linear,
    aten.conv1d.default: convolution,
    aten.conv2d.default: convolution,
    aten.conv3d.default: convolution,
    aten.cat.default: concatenation,
    aten.adaptive_avg_pool2d.default: pooled,
}
