"""Operators along axes of positions act on each channel by itself; along channels they mix them."""

import torch

from dsa_core.channels.ids import Ids
from dsa_core.channels.opcall import OpCall
from dsa_core.channels.rules_math import meet, reduction
from dsa_core.channels.rules_moves import concatenate, on_base
from dsa_core.channels.tracer import Rule, Tracer

MATRIX = (-2, -1)  # the axes of a matrix


def along(tracer: Tracer, call: OpCall) -> Ids | list[Ids]:
    """Transform an axis or several, which may change their length."""
    x = call.tensors()[0]
    if any(x.varies(axis) for axis in call.axes(len(x.shape))):
        return tracer.opaque(call, f"{call.op} over channels")
    return Ids(x.base, call.shape)


def matrix(tracer: Tracer, call: OpCall) -> Ids | list[Ids]:
    """The same, of the last two axes."""
    call.args["dim"] = MATRIX
    return along(tracer, call)


def difference(tracer: Tracer, call: OpCall) -> Ids | list[Ids]:
    """Neighbours along an axis, and what is put before or after it."""
    if any(x.varies(call.args["dim"] % len(x.shape)) for x in call.tensors()):
        return tracer.opaque(call, f"{call.op} over channels")
    return Ids(concatenate(tracer, call).base, call.shape)


def diagonal(tracer: Tracer, call: OpCall) -> Ids | list[Ids]:
    """Two axes become one, the last."""
    x, pair = call.tensors()[0], (call.args["dim1"], call.args["dim2"])
    if any(x.varies(axis % len(x.shape)) for axis in pair):
        return tracer.opaque(call, f"{call.op} over channels")
    return Ids(x.base.diagonal(0, *pair), call.shape)


def rotate(tracer: Tracer, call: OpCall) -> Ids:
    """Turn two axes, executed on the ids."""
    return Ids.of(call.tensors()[0].full.rot90(call.args["k"], call.args["dims"]))


def similarity(tracer: Tracer, call: OpCall) -> Ids | list[Ids]:
    """The cosine between two tensors along an axis, which goes."""
    both, axis = call.tensors(), call.args["dim"]
    shape = torch.broadcast_shapes(*(x.shape for x in both))
    met = meet(tracer, both, shape, call.module)
    if met is None or met.varies(axis % len(shape)):
        return tracer.opaque(call, f"{call.op} over channels")
    return Ids(met.base.squeeze(axis), call.shape)


def quantile(tracer: Tracer, call: OpCall) -> Ids | list[Ids]:
    """A reduction; several quantiles lie on a new axis, which is not followed."""
    if not isinstance(call.args["q"], float | int):
        return tracer.opaque(call, f"{call.op} by a tensor")
    return reduction(tracer, call)


FFT = (
    "fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft fft_fft2 fft_ifft2 fft_rfft2 "
    "fft_irfft2 fft_fftn fft_ifftn fft_rfftn fft_irfftn fft_fftshift fft_ifftshift"
)
RULES: dict[str, Rule] = {
    **dict.fromkeys(("argsort", *FFT.split()), along),
    **dict.fromkeys(("tril", "triu"), matrix),
    **dict.fromkeys(("nanmean", "nansum", "mode"), reduction),
    **dict.fromkeys(("quantile", "nanquantile"), quantile),
    **dict.fromkeys(("real", "imag"), on_base(lambda b, c: b)),
    "diff": difference,
    "diagonal": diagonal,
    "rot90": rotate,
    "fliplr": on_base(lambda b, c: b.flip(1)),
    "flipud": on_base(lambda b, c: b.flip(0)),
    "cosine_similarity": similarity,
}
