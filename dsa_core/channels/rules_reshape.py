"""Views in another shape: where the channel axis is cut, the pieces are tied or stay."""

from collections.abc import Sequence
from math import prod

from dsa_core.channels.ids import Ids
from dsa_core.channels.opcall import OpCall
from dsa_core.channels.tracer import Tracer


def reshape(tracer: Tracer, call: OpCall) -> Ids:
    """View in another shape.

    Where the channel axis is cut, (C) -> (p, q) or more, all that the pieces may lose lies along
    one of the new axes, and what lies along the others is tied. It is the axis that the code leaves
    open by -1, else the second: the code fixes the number of pieces (p, C / p), or of what is
    computed at once, of heads (3, heads, C / 3 / heads). An exported graph holds numbers only, so
    a width that is written into the code as (C // q, q) cannot be told from a number of pieces: a
    product of heads tells (see `Tracer.wishes`), or a trial cut, and then the view is among those
    to be `turned` to the next axis. Cut and merged at once, the channels stay.
    """
    x = call.tensors()[0]
    for axes, targets in blocks(x.shape, call.shape):
        sizes = [call.shape[i] for i in targets]
        if len(targets) < 2:
            continue
        if len(axes) == 1:
            turns = tracer.turned.count(len(tracer.views))
            tracer.views.append(x.base.flatten() if x.varies(axes[0]) else x.base.new_empty(0))
            tracer.ways.append(len(sizes))
            if x.varies(axes[0]):
                ways = open_axes([requested(call)[i] for i in targets])
                x = tie_pieces(tracer, x, axes[0], sizes, ways[turns % len(ways)])
        elif [x.shape[axis] for axis in axes] != sizes and any(x.varies(axis) for axis in axes):
            tracer.book.freeze(x.base, f"reshape cuts the channels into {sizes} ({call.module})")
    return Ids.of(x.full.reshape(call.shape))


def open_axes(written: Sequence[int]) -> list[int]:
    """The new axes of a view, by how likely the code leaves each of them open."""
    return sorted(range(len(written)), key=lambda i: (written[i] != -1, i != 1, i))


def tie_pieces(tracer: Tracer, x: Ids, axis: int, sizes: Sequence[int], free: int) -> Ids:
    """Tie what lies at the same position of one of the axes, `free`, that an axis is cut into."""
    pieces = tracer.book.fold(x, axis).reshape(*sizes).movedim(free, 0)
    line = tracer.book.tie(pieces.flatten(1).T)
    view = [-1 if i == free else 1 for i in range(len(sizes))]
    return Ids.along(line.reshape(view).expand(*sizes).flatten(), axis, x.shape)


def requested(call: OpCall) -> list[int]:
    """The shape as the code wrote it, with its -1 where that is known."""
    size = call.args.get("size") or call.args.get("shape") or call.shape
    if (sizes := call.args.get("sizes")) is not None:  # unflatten of one axis
        axis = call.args["dim"] % (len(call.shape) - len(sizes) + 1)
        size = [*call.shape[:axis], *sizes, *call.shape[axis + len(sizes) :]]
    return [n if isinstance(n, int) else 0 for n in size]


def blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Match the axes of two shapes of one tensor: [(axes of old, axes of new)], equal products."""
    olds = [axis for axis, n in enumerate(old) if n != 1]
    news = [axis for axis, n in enumerate(new) if n != 1]
    if prod(old) == 0:
        return []
    found = []
    while olds:
        left, right = [olds.pop(0)], [news.pop(0)]
        while (difference := product(old, left) - product(new, right)) != 0:
            left.append(olds.pop(0)) if difference < 0 else right.append(news.pop(0))
        found.append((left, right))
    return found


def product(shape: Sequence[int], axes: Sequence[int]) -> int:
    """How many positions some axes span."""
    return prod(shape[axis] for axis in axes)
