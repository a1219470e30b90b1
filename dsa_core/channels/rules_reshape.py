"""Views in another shape: where the channel axis is cut, the pieces are tied or stay."""

from collections.abc import Sequence
from math import prod

from torch import Tensor

from dsa_core.channels.ids import Ids
from dsa_core.channels.tracer import OpCall, Tracer


def reshape(tracer: Tracer, call: OpCall) -> Ids:
    """View in another shape.

    Where the channel axis is cut in two, (C) -> (p, C / p), the code fixes the number of pieces p,
    and the same position of every piece is tied; unless it says (-1, q): then it fixes the width q
    of the pieces, and each piece lives or dies as a whole. An exported graph holds numbers only,
    so a width that is written into the code as (C // q, q) cannot be told from a number of pieces:
    a trial cut tells, and then the view is among those to be `turned`.
    Cut into more than two, or cut and merged at once, the channels stay.
    """
    x = call.tensors()[0]
    for axes, targets in blocks(x.shape, call.shape):
        if len(targets) < 2 or not any(x.varies(axis) for axis in axes):
            continue
        sizes = [call.shape[i] for i in targets]
        if len(axes) == 1 and len(sizes) == 2:
            turned = len(tracer.views) in tracer.turned
            by_width = (requested(call)[targets[0]] == -1) != turned
            tracer.views.append(x.base.flatten())
            x = tie_pieces(tracer, x, axes[0], sizes, by_width=by_width)
        elif [x.shape[axis] for axis in axes] != sizes:
            tracer.book.freeze(x.base, f"reshape cuts the channels into {sizes} ({call.module})")
    return Ids.of(x.full.reshape(call.shape))


def tie_pieces(tracer: Tracer, x: Ids, axis: int, sizes: Sequence[int], *, by_width: bool) -> Ids:
    """Tie the pieces (p, q) of an axis: column by column, or each piece in itself."""
    rows = tracer.book.fold(x, axis).reshape(*sizes)
    line: Tensor
    if by_width:
        line = tracer.book.tie(rows.T).repeat_interleave(sizes[1])
    else:
        line = tracer.book.tie(rows).repeat(sizes[0])
    return Ids.along(line, axis, x.shape)


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
