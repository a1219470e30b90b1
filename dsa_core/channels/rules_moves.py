"""Operators that only move data: they are executed on the ids as they would be on the numbers.

Where one cuts the channel axis into pieces, the code of the network fixes something about the pieces:
their number (then the same position of each piece is united, so that all lose as many), or their widths
(then the channels stay).
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dsa_core.channels.ids import NO_CHANNEL, Ids
from dsa_core.channels.rules_layers import tie_rows
from dsa_core.channels.tracer import Call, Rule, Tracer


def source(call: Call) -> Ids:
    """The tensor that is moved."""
    return call.tensors()[0]


def same(tracer: Tracer, call: Call) -> Ids:
    """Hand the ids through: the shape does not change."""
    return source(call)


def on_base(move: Callable[[Tensor, Call], Tensor]) -> Rule:
    """A rule for a move that may be made on the compact ids, axis for axis."""

    def rule(tracer: Tracer, call: Call) -> Ids:
        return Ids(move(source(call).base, call), call.shape)

    return rule


def reshape(tracer: Tracer, call: Call) -> Ids:
    """View in another shape.

    Where the channel axis is cut in two, (C) -> (pieces, C / pieces), the same position of every piece is
    tied; cut in more, or cut and merged at once, the channels stay.
    """
    x = source(call)
    for axes, sizes in blocks(x.shape, call.shape):
        varying = [axis for axis in axes if x.varies(axis)]
        if len(sizes) < 2 or not varying:
            continue
        if len(axes) == 1 and len(sizes) == 2:
            tie_rows(tracer, tracer.book.fold(x, axes[0]).reshape(sizes))
        elif [x.shape[axis] for axis in axes] != sizes:
            tracer.book.freeze(x.base, f"reshape cuts the channels into {sizes} ({call.module})")
    return Ids.of(x.full.reshape(call.shape))


def blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Match the axes of two shapes of one tensor: [(axes of old, sizes in new)] with equal products."""
    olds = [(axis, n) for axis, n in enumerate(old) if n > 1]
    news = [n for n in new if n > 1]
    found = []
    while olds:
        axis, left = olds.pop(0)
        axes, sizes = [axis], [news.pop(0)]
        right = sizes[0]
        while left != right:
            if left < right:
                axis, n = olds.pop(0)
                axes.append(axis)
                left *= n
            else:
                sizes.append(news.pop(0))
                right *= sizes[-1]
        found.append((axes, sizes))
    return found


def split(tracer: Tracer, call: Call) -> list[Ids]:
    """Cut an axis into pieces; equal pieces of the channel axis are tied, unequal ones stay."""
    x = source(call)
    axis = (call.args.get("dim") or 0) % len(x.shape)
    sizes = [shape[axis] for shape in call.shapes]
    if x.varies(axis):
        if len(set(sizes)) == 1:
            tie_rows(tracer, tracer.book.fold(x, axis).reshape(len(sizes), -1))
        else:
            tracer.book.freeze(x.base, f"split into fixed widths {sizes} ({call.module})")
        bases: tuple[Tensor, ...] = x.base.split(sizes, axis)
    else:
        bases = (x.base,) * len(sizes)
    return [Ids(b, s) for b, s in zip(bases, call.shapes, strict=True)]


def unbind(tracer: Tracer, call: Call) -> list[Ids]:
    """Take every slice of an axis."""
    x = source(call)
    axis = (call.args.get("dim") or 0) % len(x.shape)
    full = x.base.expand(*[n if i == axis else -1 for i, n in enumerate(x.shape)])
    return [Ids(b, s) for b, s in zip(full.unbind(axis), call.shapes, strict=True)]


def slice_(tracer: Tracer, call: Call) -> Ids:
    """Take a range of an axis; one of the channel axis has fixed bounds, so the channels stay."""
    x = source(call)
    axis = (call.args.get("dim") or 0) % len(x.shape)
    if call.shape == x.shape:
        return x
    if not x.varies(axis):
        return Ids(x.base, call.shape)
    tracer.book.freeze(x.base, f"slice with fixed bounds ({call.module})")
    start, end, step = (call.args.get(a) for a in ("start", "end", "step"))
    index = torch.arange(x.shape[axis])[
        start : min(end or x.shape[axis], x.shape[axis]) : step or 1
    ]
    return Ids(x.base.index_select(axis, index), call.shape)


def select(tracer: Tracer, call: Call) -> Ids:
    """Take one position of an axis; among channels that fixes their order, so they stay."""
    x = source(call)
    axis, index = call.args["dim"] % len(x.shape), call.args["index"]
    if x.varies(axis):
        tracer.book.freeze(x.base, f"select of one position ({call.module})")
        return Ids(x.base.select(axis, index), call.shape)
    return Ids(x.base.squeeze(axis), call.shape)


def concatenate(tracer: Tracer, call: Call) -> Ids:
    """Put tensors one after the other; on the other axes their ids stay as compact as they are."""
    parts = [p for p in call.tensors() if p.shape != (0,)]
    axis = (call.args.get("dim") or 0) % len(call.shape)
    if not any(p.varies(axis) for p in parts) and all(
        torch.equal(p.base, parts[0].base) for p in parts
    ):
        return Ids(parts[0].base, call.shape)
    widest = torch.broadcast_shapes(
        *[[1 if i == axis else n for i, n in enumerate(p.base.shape)] for p in parts]
    )
    bases = [
        p.base.expand(*[p.shape[axis] if i == axis else n for i, n in enumerate(widest)])
        for p in parts
    ]
    return Ids(torch.cat(bases, axis), call.shape)


def stack(tracer: Tracer, call: Call) -> Ids:
    """Put tensors side by side on a new axis."""
    axis = (call.args.get("dim") or 0) % len(call.shape)
    return Ids.of(torch.stack([p.full for p in call.tensors()], axis))


def pad(tracer: Tracer, call: Call) -> Ids:
    """Pad; new positions on the channel axis have a fixed number, so the channels they meet stay."""
    x = source(call)
    amounts = list(call.args["pad"])
    base_pad: list[int] = []
    for i in range(len(amounts) // 2):
        axis = len(x.shape) - 1 - i
        base_pad += amounts[2 * i : 2 * i + 2] if x.varies(axis) else [0, 0]
    if not any(base_pad):
        return Ids(x.base, call.shape)
    base = F.pad(x.base, base_pad, value=NO_CHANNEL - 1)
    new = base == NO_CHANNEL - 1
    base = base.clone()
    base[new] = tracer.book.fresh(int(new.sum()))
    tracer.book.freeze(base[new], f"padded by a fixed number of channels ({call.module})")
    return Ids(base, call.shape)


def expand(tracer: Tracer, call: Call) -> Ids:
    """Repeat axes of size one."""
    base = source(call).base
    return Ids(base.reshape((1,) * (len(call.shape) - base.ndim) + tuple(base.shape)), call.shape)


def repeat(tracer: Tracer, call: Call) -> Ids:
    """Tile a tensor."""
    return Ids.of(source(call).full.repeat(call.args["repeats"]))


def roll(tracer: Tracer, call: Call) -> Ids:
    """Shift an axis round; on the channel axis by a fixed number, so the channels stay."""
    x = source(call)
    if any(x.varies(axis) for axis in call.args["dims"] or range(len(x.shape))):
        tracer.book.freeze(x.base, f"roll by a fixed number ({call.module})")
        return Ids.of(x.full.roll(call.args["shifts"], call.args["dims"]))
    return x


def pixel_shuffle(tracer: Tracer, call: Call) -> Ids:
    """Spread blocks of r*r channels over space: the channels of a block live and die together."""
    x, r = source(call), call.args["upscale_factor"]
    ids = tracer.book.fold(x, -3)
    blocks = ids.reshape(-1, r * r)
    tie_rows(tracer, blocks.T)
    return Ids.along(blocks[:, 0], len(call.shape) - 3, call.shape)


def pixel_unshuffle(tracer: Tracer, call: Call) -> Ids:
    """Gather space into r*r copies of every channel."""
    x, r = source(call), call.args["downscale_factor"]
    ids = tracer.book.fold(x, -3).repeat_interleave(r * r)
    return Ids.along(ids, len(call.shape) - 3, call.shape)


def channel_shuffle(tracer: Tracer, call: Call) -> Ids:
    """Interleave pieces of the channel axis; the same position of every piece is tied."""
    x = source(call)
    rows = tie_rows(tracer, tracer.book.fold(x, 1).reshape(call.args["groups"], -1))
    return Ids.along(rows.T.reshape(-1), 1, call.shape)


def write_in_place(tracer: Tracer, call: Call) -> Ids | list[Ids]:
    """Write into (a part of) another tensor, which the ids cannot follow: both stay."""
    return tracer.opaque(call, "in-place copy into a tensor")[0]


PASS = (
    "contiguous clone alias detach to _to_copy dropout feature_dropout alpha_dropout feature_alpha_dropout "
    "dropout_ lift_fresh_copy lift_fresh type_as float half bfloat16 native_dropout"
)

RULES: dict[str, Rule] = {
    **dict.fromkeys(PASS.split(), same),
    **dict.fromkeys(
        ("view", "reshape", "flatten", "unflatten", "_unsafe_view", "view_as", "reshape_as"),
        reshape,
    ),
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "tensor_split"), split),
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), expand),
    **dict.fromkeys(("cat", "concat", "concatenate"), concatenate),
    **dict.fromkeys(("pad", "constant_pad_nd", "reflection_pad2d", "replication_pad2d"), pad),
    **dict.fromkeys(
        ("transpose", "swapaxes", "swapdims"),
        on_base(lambda b, c: b.transpose(*list(c.args.values())[1:3])),
    ),
    "permute": on_base(lambda b, c: b.permute(c.args["dims"])),
    "movedim": on_base(lambda b, c: b.movedim(c.args["source"], c.args["destination"])),
    "t": on_base(lambda b, c: b.t()),
    "numpy_T": on_base(lambda b, c: b.T),
    "unsqueeze": on_base(lambda b, c: b.unsqueeze(c.args["dim"])),
    "squeeze": on_base(
        lambda b, c: b.reshape([n for n, k in zip(b.shape, kept_axes(c), strict=True) if k])
    ),
    "flip": on_base(lambda b, c: b.flip(c.args["dims"])),
    "unbind": unbind,
    "slice": slice_,
    "select": select,
    "stack": stack,
    "repeat": repeat,
    "roll": roll,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "channel_shuffle": channel_shuffle,
    "copy": write_in_place,
}


def kept_axes(call: Call) -> list[bool]:
    """Which axes a squeeze leaves."""
    shape, dims = source(call).shape, call.args.get("dim")
    chosen = range(len(shape)) if dims is None else ([dims] if isinstance(dims, int) else dims)
    gone = {d % len(shape) for d in chosen}
    return [not (i in gone and n == 1) for i, n in enumerate(shape)]
