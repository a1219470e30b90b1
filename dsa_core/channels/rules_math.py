"""Operators on values: element by element, over space, along an axis, or mixing channels."""

from collections.abc import Sequence
from math import prod

import torch

from dsa_core.channels.ids import Ids
from dsa_core.channels.opcall import OpCall, StateIds
from dsa_core.channels.rules_moves import concatenate
from dsa_core.channels.tracer import Rule, Tracer


def elementwise(tracer: Tracer, call: OpCall) -> Ids | list[Ids]:
    """Channels that meet at a position are united; broadcasting as torch does.

    A tensor of size one on an axis along which channels lie (a spatial gate, a scale for all
    channels) serves all of them: it is not united with any, and stays.
    """
    met = meet(tracer, call.tensors(), call.shape, call.module)
    return tracer.opaque(call, "outer product of channels") if met is None else met


def meet(tracer: Tracer, values: Sequence[Ids], shape: tuple[int, ...], module: str) -> Ids | None:
    """The ids of tensors that meet element by element in one of `shape`; None if each of them is
    of size one where another's channels lie."""
    rank = len(shape)
    bases = [v.lined_up(rank) for v in values if not isinstance(v, StateIds)]
    channel_axes = {axis for base in bases for axis in range(rank) if base.shape[axis] > 1}
    result = None
    for value in values:
        own = (1,) * (rank - len(value.shape)) + value.shape
        if not any(own[axis] == 1 != shape[axis] for axis in channel_axes):
            base = value.lined_up(rank)
            result = base if result is None else tracer.book.unite(result, base)
        elif not isinstance(value, StateIds):
            tracer.book.freeze(value.base, f"broadcast over channels ({module})")
    return None if result is None else Ids(result, shape)


def maximum_minimum(tracer: Tracer, call: OpCall) -> Ids | list[Ids]:
    """`max` and `min` are two operators: of two tensors, or over axes."""
    return elementwise(tracer, call) if len(call.tensors()) > 1 else reduction(tracer, call)


def gated_linear_unit(tracer: Tracer, call: OpCall) -> Ids:
    """One half of an axis gates the other: the same position of both is tied."""
    x, axis = call.tensors()[0], call.args["dim"] % len(call.shape)
    if not x.varies(axis):
        return Ids(x.base, call.shape)
    left, right = x.base.chunk(2, axis)
    return Ids(tracer.book.unite(left, right), call.shape)


def spatial(tracer: Tracer, call: OpCall) -> list[Ids]:
    """Pooling and resizing act on each channel by itself: the same channels on another grid, with
    their places in it for some pools."""
    x = call.tensors()[0]
    axis = 1 if len(x.shape) > 2 else 0
    if any(x.varies(other) for other in range(len(x.shape)) if other != axis):
        tracer.book.freeze(x.base, f"{call.op} over channels ({call.module})")
    grid = Ids.along(tracer.book.fold(x, axis), axis, call.shape)
    return [grid, *(Ids.constant(shape) for shape in call.shapes[1:])]


def grid_sample(tracer: Tracer, call: OpCall) -> list[Ids]:
    """Resample each channel at the places of a grid, whose last axis is space."""
    tracer.book.freeze(call.args["grid"].base, f"places to sample at ({call.module})")
    return spatial(tracer, call)


def reduction(tracer: Tracer, call: OpCall) -> list[Ids]:
    """Reduce over axes: over space each channel by itself; over channels they mix, and stay."""
    x = call.tensors()[0]
    gone = call.axes(len(x.shape))
    if not call.used:  # weights of attention that nobody reads
        return [Ids.constant(shape) for shape in call.shapes]
    if any(x.varies(axis) for axis in gone):
        return tracer.opaque(call, f"{call.op} over channels")
    base = x.base
    if not call.args.get("keepdim"):
        base = base.reshape([n for axis, n in enumerate(base.shape) if axis not in gone])
    return [Ids(base, shape) for shape in call.shapes]


def along_axis(tracer: Tracer, call: OpCall) -> Ids:
    """Softmax, cumulative sums: over space each channel by itself; over channels they mix, and
    stay."""
    x = call.tensors()[0]
    if x.varies(call.args["dim"]):
        tracer.book.freeze(x.base, f"{call.op} over channels ({call.module})")
    return Ids(x.base, x.shape)


def recurrent(tracer: Tracer, call: OpCall) -> list[Ids]:
    """LSTM, GRU, RNN and their cells: every matrix once a step; they mix all channels."""
    weights = sum(
        prod(v.shape) for v in call.tensors() if isinstance(v, StateIds) and len(v.shape) == 2
    )
    steps = prod(call.args["input"].shape[:-1])
    tracer.fixed_macs += tracer.per_example(call, steps * weights)
    return tracer.opaque(call, f"{call.op} mixes channels")


def new_constant(tracer: Tracer, call: OpCall) -> Ids:
    """A new tensor of equal numbers; whether its shape follows that of another a trial tells."""
    return Ids.constant(call.shape)


def same_shape(tracer: Tracer, call: OpCall) -> Ids:
    """A new constant tensor of the shape of another, which follows that one's channels."""
    return Ids(call.tensors()[0].base, call.shape)


def along(tracer: Tracer, call: OpCall) -> Ids | list[Ids]:
    """Order or transform along axes, which may change their length; over channels they mix."""
    x = call.tensors()[0]
    if any(x.varies(axis) for axis in call.axes(len(x.shape))):
        return tracer.opaque(call, f"{call.op} over channels")
    return Ids(x.base, call.shape)


def matrix(tracer: Tracer, call: OpCall) -> Ids | list[Ids]:
    """The same, of the last two axes."""
    call.args["dim"] = (-2, -1)
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


def similarity(tracer: Tracer, call: OpCall) -> Ids | list[Ids]:
    """The cosine between two tensors along an axis, which goes."""
    both, axis = call.tensors(), call.args["dim"]
    shape = torch.broadcast_shapes(*(x.shape for x in both))
    met = meet(tracer, both, shape, call.module)
    if met is None or met.varies(axis % len(shape)):
        return tracer.opaque(call, f"{call.op} over channels")
    return Ids(met.base.squeeze(axis), call.shape)


def quantile(tracer: Tracer, call: OpCall) -> list[Ids]:
    """A reduction; several quantiles lie on a new axis, which is not followed."""
    if not isinstance(call.args["q"], float | int):
        return tracer.opaque(call, f"{call.op} by a tensor")
    return reduction(tracer, call)


# Element by element, without torch's tag "pointwise".
ELEMENTWISE = (
    "hardswish logsigmoid log_sigmoid zero fill floor_divide __and__ __or__ multiply subtract "
    "divide where special_digamma special_erf special_erfc special_erfinv special_exp2 "
    "special_expit special_expm1 special_gammaln special_i0 special_log1p special_logit "
    "special_ndtr special_psi special_round special_sinc"
)
POOLS = (
    "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
    "adaptive_avg_pool2d adaptive_avg_pool3d upsample_nearest1d upsample_nearest2d "
    "upsample_nearest3d upsample_bilinear2d upsample_bicubic2d upsample_linear1d "
    "upsample_trilinear3d _upsample_nearest_exact1d _upsample_nearest_exact2d "
    "_upsample_nearest_exact3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa max_unpool2d "
    "max_unpool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
    "max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices "
    "fractional_max_pool2d fractional_max_pool3d"
)
REDUCTIONS = (
    "mean sum amax amin prod var std logsumexp linalg_vector_norm norm argmax argmin any all "
    "var_mean std_mean median kthvalue aminmax"
)
ALONG_AXIS = "softmax log_softmax _softmax cumsum cumprod logcumsumexp"
RECURRENT = "lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell"
NEW = "new_zeros new_ones new_full new_empty"
LIKE = "zeros_like ones_like full_like empty_like rand_like randn_like"
FFT = (
    "fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft fft_fft2 fft_ifft2 fft_rfft2 "
    "fft_irfft2 fft_fftn fft_ifftn fft_rfftn fft_irfftn fft_fftshift fft_ifftshift"
)

RULES: dict[str, Rule] = {
    **dict.fromkeys(NEW.split(), new_constant),
    **dict.fromkeys(LIKE.split(), same_shape),
    **dict.fromkeys(["pointwise", *ELEMENTWISE.split()], elementwise),
    **dict.fromkeys(POOLS.split(), spatial),
    "grid_sampler": grid_sample,
    **dict.fromkeys(REDUCTIONS.split(), reduction),
    **dict.fromkeys(ALONG_AXIS.split(), along_axis),
    **dict.fromkeys(("max", "min"), maximum_minimum),
    **dict.fromkeys(RECURRENT.split(), recurrent),
    "glu": gated_linear_unit,
    **dict.fromkeys(("sort", "argsort", "topk", "cummax", "cummin", *FFT.split()), along),
    **dict.fromkeys(("tril", "triu"), matrix),
    **dict.fromkeys(("nanmean", "nansum", "mode"), reduction),
    **dict.fromkeys(("quantile", "nanquantile"), quantile),
    "diff": difference,
    "diagonal": diagonal,
    "cosine_similarity": similarity,
}
