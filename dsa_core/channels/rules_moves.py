"""Operators that only move data: they are executed on the ids as they would be on the numbers.

Where one cuts the channel axis into pieces, the code of the network fixes something about the
pieces: their number (then the same position of each piece is united, so that all lose as many),
or their widths (then the channels stay).
"""

from collections.abc import Sequence
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor

from dsa_core.channels.ids import NO_CHANNEL, Ids
from dsa_core.channels.opcall import OpCall, StateIds
from dsa_core.channels.rules_reshape import reshape
from dsa_core.channels.tracer import Rule, Tracer

PAIR = torch.tensor([[0, 1], [2, 3]])  # a matrix, to see whether a move transposes


def source(call: OpCall) -> Ids:
    """The tensor that is moved."""
    return call.tensors()[0]


def axis_of(call: OpCall) -> int:
    """The axis that is moved along, counted from the front."""
    return int(call.args.get("dim") or 0) % len(source(call).shape)


def same(tracer: Tracer, call: OpCall) -> Ids:
    """Hand the ids through: the shape does not change."""
    return source(call)


def axis_for_axis(tracer: Tracer, call: OpCall) -> Ids:
    """A move that may be made on the compact ids."""
    x, move, arguments = source(call), getattr(torch.ops.aten, call.op), [*call.args.values()][1:]
    if isinstance(x, StateIds) and len(x.shape) == 2 and move(PAIR, *arguments).equal(PAIR.T):
        return x.turned()
    return Ids(move(x.base, *arguments), call.shape)


def chunk(tracer: Tracer, call: OpCall) -> list[Ids]:
    """Cut an axis into pieces, which are taken to be shares of it: all pieces lose alike."""
    x, axis = source(call), axis_of(call)
    sizes = [shape[axis] for shape in call.shapes]
    if not x.varies(axis):
        return [Ids(x.base, shape) for shape in call.shapes]
    listed = call.op == "split_with_sizes" and len(set(sizes)) > 1  # a trial tells who holds them
    bases = (x.base if listed else in_shares(tracer, call, sizes)).split(sizes, axis)
    return [Ids(b, shape) for b, shape in zip(bases, call.shapes, strict=True)]


def in_shares(tracer: Tracer, call: OpCall, bounds: Sequence[int]) -> Tensor:
    """Tie the pieces of the channel axis between multiples of the bounds' common divisor; channels
    whose bounds have none stay."""
    x, axis = source(call), axis_of(call)
    width = gcd(*bounds)
    if width == 1:
        tracer.book.freeze(x.base, f"cut at fixed bounds {list(bounds)} ({call.module})")
        return x.base
    pieces = torch.stack(x.base.split(width, axis))
    tied = tracer.book.tie(pieces.flatten(1)).reshape(pieces.shape[1:])
    return torch.cat([tied] * len(pieces), axis)


def unbind(tracer: Tracer, call: OpCall) -> list[Ids]:
    """Take every slice of an axis; the code fixes their number, so channels along it stay."""
    x, axis = source(call), axis_of(call)
    if x.varies(axis):
        tracer.wishes.append(x.base.flatten())
        tracer.book.freeze(x.base, f"unbind of the channels ({call.module})")
        return [Ids(b, s) for b, s in zip(x.base.unbind(axis), call.shapes, strict=True)]
    return [Ids(x.base.squeeze(axis), shape) for shape in call.shapes]


def slice_(tracer: Tracer, call: OpCall) -> Ids:
    """Take a range of an axis; of the channel axis its bounds are taken to be shares."""
    x, axis = source(call), axis_of(call)
    n = x.shape[axis]
    start, end, step = (call.args.get(a) for a in ("start", "end", "step"))
    if call.op == "narrow":
        start, end = call.args["start"], call.args["start"] + call.args["length"]
    places = range(n)[start : end : step or 1]
    if len(places) == n:
        return x
    if not x.varies(axis):
        return Ids(x.base, call.shape)
    bounds = [n, places.start, places.stop] if places.step == 1 else [1]
    index = torch.tensor(places, dtype=torch.int64)
    return Ids(in_shares(tracer, call, bounds).index_select(axis, index), call.shape)


def select(tracer: Tracer, call: OpCall) -> Ids:
    """Take one position of an axis; among channels that fixes their order, so they stay."""
    x, axis = source(call), axis_of(call)
    if x.varies(axis):
        tracer.wishes.append(x.base.flatten())
        tracer.book.freeze(x.base, f"select of one position ({call.module})")
        return Ids(x.base.select(axis, call.args["index"]), call.shape)
    return Ids(x.base.squeeze(axis), call.shape)


def concatenate(tracer: Tracer, call: OpCall) -> Ids:
    """Put tensors one after the other.

    Where the channels lie on another axis (images side by side, tokens after tokens), those of
    all parts are united, as in a sum: every part must lose the same ones.
    """
    axis = int(call.args.get("dim") or 0) % len(call.shape)
    parts = [p for p in call.tensors() if len(p.shape) == len(call.shape)]
    elsewhere = any(p.base.numel() > 1 for p in parts)
    if elsewhere and not any(p.varies(axis) for p in parts):
        return Ids(united(tracer, parts), call.shape)
    widest = torch.broadcast_shapes(
        *[[1 if i == axis else n for i, n in enumerate(p.base.shape)] for p in parts]
    )
    bases = [
        p.base.expand(*[p.shape[axis] if i == axis else n for i, n in enumerate(widest)])
        for p in parts
    ]
    return Ids(torch.cat(bases, axis), call.shape)


def united(tracer: Tracer, parts: Sequence[Ids]) -> Tensor:
    """Unite what lies at the same position of every part."""
    base = parts[0].base
    for part in parts[1:]:
        base = tracer.book.unite(base, part.base)
    return base


def stack(tracer: Tracer, call: OpCall) -> Ids:
    """Put tensors side by side on a new axis: as in a sum, all must lose the same channels."""
    axis = int(call.args.get("dim") or 0) % len(call.shape)
    return Ids(united(tracer, call.tensors()).unsqueeze(axis), call.shape)


def pad(tracer: Tracer, call: OpCall) -> Ids:
    """Pad; new positions on the channel axis have a fixed number, so the channels they meet stay.

    A negative amount cuts fixed positions off: then all channels stay.
    """
    x = source(call)
    amounts = list(call.args.get("pad") or call.args["padding"])
    base_pad: list[int] = []
    for i in range(len(amounts) // 2):
        axis = len(x.shape) - 1 - i
        base_pad += amounts[2 * i : 2 * i + 2] if x.varies(axis) else [0, 0]
    if not any(base_pad):
        return Ids(x.base, call.shape)
    constant = (call.args.get("mode") or "constant") == "constant" and "padding" not in call.args
    if min(base_pad) < 0 or not constant:
        return tracer.opaque(call, "pad that cuts or repeats channels")[0]
    base = F.pad(x.base, base_pad, value=NO_CHANNEL - 1)
    new = base == NO_CHANNEL - 1
    base[new] = tracer.book.fresh(int(new.sum()))
    tracer.book.freeze(base[new], f"padded by a fixed number of channels ({call.module})")
    return Ids(base, call.shape)


def expand(tracer: Tracer, call: OpCall) -> Ids:
    """Repeat axes of size one."""
    return Ids(source(call).lined_up(len(call.shape)), call.shape)


def repeat(tracer: Tracer, call: OpCall) -> Ids:
    """Tile a tensor: only axes along which the ids change need to be repeated."""
    base = source(call).lined_up(len(call.shape))
    times = list(call.args.get("repeats") or call.args["dims"])
    times = [1] * (len(call.shape) - len(times)) + times
    times = [t if n > 1 else 1 for t, n in zip(times, base.shape, strict=True)]
    return Ids(base.repeat(times), call.shape)


def repeat_interleave(tracer: Tracer, call: OpCall) -> Ids:
    """Repeat every position of an axis."""
    x, axis = source(call), axis_of(call)
    if call.args.get("dim") is None or not isinstance(times := call.args["repeats"], int):
        return tracer.opaque(call, "repeat_interleave by a tensor or of all axes")[0]
    return Ids(x.base.repeat_interleave(times, axis) if x.varies(axis) else x.base, call.shape)


def unfold(tracer: Tracer, call: OpCall) -> Ids:
    """Slide a window along an axis, `x.unfold(axis, size, step)`, and lay it on a new last axis;
    along channels by a fixed size, so they stay."""
    x, axis = source(call), call.args["dimension"]
    if not x.varies(axis):
        return Ids(x.base.unsqueeze(-1), call.shape)
    tracer.book.freeze(x.base, f"unfold of the channels ({call.module})")
    return Ids(x.base.unfold(axis, call.args["size"], call.args["step"]), call.shape)


def im2col(tracer: Tracer, call: OpCall) -> Ids:
    """`F.unfold`: patches as columns, (N, C, ...) -> (N, C * patch, L), each channel by itself."""
    ids = tracer.book.fold(source(call), 1)
    return Ids.along(ids.repeat_interleave(call.shape[1] // len(ids)), 1, call.shape)


def col2im(tracer: Tracer, call: OpCall) -> Ids:
    """`F.fold`: add patches up, (N, C * patch, L) -> (N, C, ...); a channel's rows are tied."""
    rows = tracer.book.fold(source(call), 1).reshape(call.shape[1], -1)
    return Ids.along(tracer.book.tie(rows.T), 1, call.shape)


def roll(tracer: Tracer, call: OpCall) -> Ids:
    """Shift an axis round; on the channel axis by a fixed number, so the channels stay."""
    x = source(call)
    if any(x.varies(axis) for axis in call.args["dims"] or range(len(x.shape))):
        tracer.book.freeze(x.base, f"roll by a fixed number ({call.module})")
        return Ids.of(x.full.roll(call.args["shifts"], call.args["dims"]))
    return Ids(x.base, x.shape)


def pixel_shuffle(tracer: Tracer, call: OpCall) -> Ids:
    """Spread blocks of r*r channels over space: the channels of a block live and die together."""
    x, r = source(call), call.args["upscale_factor"]
    ids = tracer.book.fold(x, len(x.shape) - 3)
    line = tracer.book.tie(ids.reshape(-1, r * r).T)
    return Ids.along(line, len(call.shape) - 3, call.shape)


def pixel_unshuffle(tracer: Tracer, call: OpCall) -> Ids:
    """Gather space into r*r copies of every channel."""
    x, r = source(call), call.args["downscale_factor"]
    ids = tracer.book.fold(x, len(x.shape) - 3).repeat_interleave(r * r)
    return Ids.along(ids, len(call.shape) - 3, call.shape)


def channel_shuffle(tracer: Tracer, call: OpCall) -> Ids:
    """Interleave pieces of the channel axis; the same position of every piece is tied."""
    x, pieces = source(call), call.args["groups"]
    line = tracer.book.tie(tracer.book.fold(x, 1).reshape(pieces, -1))
    return Ids.along(line.repeat_interleave(pieces), 1, call.shape)


def write_in_place(tracer: Tracer, call: OpCall) -> Ids | list[Ids]:
    """Write into (a part of) another tensor, which the ids cannot follow: both stay."""
    return tracer.opaque(call, "in-place copy into a tensor")[0]


def squeeze(tracer: Tracer, call: OpCall) -> Ids:
    """Leave out the named axes of length one."""
    x = source(call)
    gone = call.axes(len(x.shape))
    kept = [b for i, b in enumerate(x.base.shape) if x.shape[i] != 1 or i not in gone]
    return Ids(x.base.reshape(kept), call.shape)


PASS = (
    "contiguous clone alias detach to _to_copy dropout feature_dropout alpha_dropout "
    "feature_alpha_dropout lift_fresh_copy lift_fresh type_as float half bfloat16 native_dropout "
    "real imag"
)
MOVES = (
    "transpose swapaxes swapdims permute movedim t numpy_T mT unsqueeze flip fliplr flipud rot90"
)
RESHAPES = "view reshape flatten unflatten _unsafe_view view_as reshape_as"
PADS = "pad constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d"

RULES: dict[str, Rule] = {
    **dict.fromkeys(PASS.split(), same),
    **dict.fromkeys(MOVES.split(), axis_for_axis),
    **dict.fromkeys(RESHAPES.split(), reshape),
    **dict.fromkeys(PADS.split(), pad),
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), expand),
    **dict.fromkeys(("cat", "concat", "concatenate"), concatenate),
    **dict.fromkeys(("repeat", "tile"), repeat),
    **dict.fromkeys(("slice", "narrow"), slice_),
    "squeeze": squeeze,
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "tensor_split"), chunk),
    "unbind": unbind,
    "select": select,
    "stack": stack,
    "roll": roll,
    "repeat_interleave": repeat_interleave,
    "unfold": unfold,
    "im2col": im2col,
    "col2im": col2im,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "channel_shuffle": channel_shuffle,
    "copy": write_in_place,
}
