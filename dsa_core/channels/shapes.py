"""Results without data of the operators that networks call most, many times quicker than torch's
own meta kernels; all others are left to those."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

SAME = ("batch_norm", "hardswish", "log_sigmoid")
TRUTHS = ("eq", "ne", "lt", "le", "gt", "ge", "isnan", "isinf", "isfinite", "isposinf",
          "isneginf", "signbit", "isclose", "logical_and", "logical_or", "logical_xor",
          "logical_not")  # fmt: skip


def quick(function: OpOverload, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor | None:
    """The result of an operator, a tensor on the meta device; None where torch must be asked.

    Args:
        args, kwargs: what it is called with, tensors on the meta device.

    Raises:
        TypeError: input and weights of a layer differ in type.
    """
    kind = kind_of(function)
    first = args[0] if args else None
    if kind == "" or kwargs or not isinstance(first, Tensor) or not first.is_floating_point():
        return None
    tensors = [a for a in args if isinstance(a, Tensor)]
    if kind == "same":
        fits = all(t.shape == first.shape[1:2] for t in tensors[1:])
        return torch.empty_like(first) if fits else None
    if kind == "in place":
        wide = torch.broadcast_shapes(*[t.shape for t in tensors])
        return first if wide == first.shape else None
    if kind in ("linear", "convolution") and any(t.dtype != first.dtype for t in tensors):
        raise TypeError(f"{function} of two number formats")
    if kind == "linear":
        fits = args[1].ndim == 2 and args[1].shape[1] == first.shape[-1]
        return first.new_empty((*first.shape[:-1], len(args[1]))) if fits else None
    return convolved(*args) if kind == "convolution" else elementwise(args)


@cache
def kind_of(function: OpOverload) -> str:
    """How to find the shape of what an operator returns; '' if that is not known here."""
    schema = function._schema
    op = schema.name.removeprefix("aten::")
    if function._overloadname == "out" or len(schema.returns) != 1 or op in TRUTHS:
        return ""
    pointwise = torch.Tag.pointwise in function.tags
    if op.endswith("_"):
        return "in place" if pointwise or op[:-1] in SAME else ""
    if op in ("conv1d", "conv2d", "conv3d") and function._overloadname == "default":
        return "convolution"
    if op == "linear" or op in SAME:
        return "linear" if op == "linear" else "same"
    return "pointwise" if pointwise and not schema.is_mutable else ""


def elementwise(args: Sequence[Any]) -> Tensor | None:
    """Of operands that broadcast, if all are of one floating type."""
    tensors = [a for a in args if isinstance(a, Tensor)]
    first = tensors[0]
    if any(t.dtype != first.dtype for t in tensors) or any(isinstance(a, complex) for a in args):
        return None
    if all(t.shape == first.shape for t in tensors):
        return torch.empty_like(first)
    return first.new_empty(torch.broadcast_shapes(*[t.shape for t in tensors]))


def convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Tensor | None:
    """Of a convolution of a batch: (size + 2 padding - dilation (kernel - 1) - 1) / stride + 1."""
    axes = weight.ndim - 2
    if x.ndim != weight.ndim or x.shape[1] != weight.shape[1] * groups:
        return None
    steps, pads, gaps = (
        list(v) * (axes if len(v) == 1 else 1) for v in (stride, padding, dilation)
    )
    sizes = [
        (size + 2 * pad - gap * (kernel - 1) - 1) // step + 1
        for size, kernel, step, pad, gap in zip(
            x.shape[2:], weight.shape[2:], steps, pads, gaps, strict=True
        )
    ]
    return x.new_empty((len(x), len(weight), *sizes)) if min(sizes) > 0 else None
