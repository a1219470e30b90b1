"""Products of activations, as in attention: each head of a product is a unit."""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod

import torch
from torch import Tensor

from dsa_core.channels.ids import Ids
from dsa_core.channels.opcall import OpCall, StateIds
from dsa_core.channels.rules_layers import matrix_product
from dsa_core.channels.rules_math import meet
from dsa_core.channels.tracer import Rule, Tracer


def product(tracer: Tracer, call: OpCall) -> Ids | list[Ids]:
    """A product with a matrix of parameters is a layer; one of activations `mixes` heads."""
    made = matrix_product(tracer, call)
    if made is not None:
        return made
    if call.op == "einsum":
        run = partial(torch.einsum, call.args["equation"])
        tracer.fixed_macs += tracer.per_example(call, counted_macs(run, call.tensors()))
        return tracer.opaque(call, "einsum of activations")
    left, right = call.tensors()[-2:]
    mixed = mixes(tracer, call, left, right, call.shape)
    if mixed is not None and call.op in ("baddbmm", "addmm") and call.args["beta"]:
        mixed = meet(tracer, [mixed, call.args["self"]], call.shape, call.module)
    return tracer.opaque(call, f"{call.op} of activations") if mixed is None else mixed


def mixes(
    tracer: Tracer, call: OpCall, left: Ids, right: Ids, shape: tuple[int, ...]
) -> Ids | None:
    """The ids of (..., m, k) @ (..., k, n) = `shape`, and its MACs; None if it mixes channels.

    Channels along the axes in front of the matrices are heads: all that one of them reads and makes
    is one unit. Without heads, channels along m or n are handed through; along k they mix. Heads
    that a view tied together, and left the positions in them apart, are wished the other way.
    """
    if min(len(left.shape), len(right.shape)) < 2:  # with a vector: torch counts few of them
        tracer.fixed_macs += tracer.per_example(call, counted_macs(torch.matmul, [left, right]))
        return None
    macs = tracer.per_example(call, prod(shape) * left.shape[-1])
    rank = len(shape)
    sides = [Ids(x.lined_up(rank), (1,) * (rank - len(x.shape)) + x.shape) for x in (left, right)]
    on_heads = [any(x.base.shape[axis] > 1 for axis in range(rank - 2)) for x in sides]
    apart = [x for x, on in zip(sides, on_heads, strict=True) if not on and x.base.numel() > 1]
    if any(on_heads):
        line = None if apart else heads(tracer, call, sides, shape)
    else:
        line = handed_through(tracer, call, *sides)
        apart = [x for x, axis in zip(sides, (-1, -2), strict=True) if x.varies(axis)]
    if line is None:
        tracer.wishes += [x.base.flatten() for x in apart]
        tracer.fixed_macs += macs
        return None
    tracer.products.append((macs, line.flatten()))
    return Ids(line, shape)


def heads(tracer: Tracer, call: OpCall, sides: list[Ids], shape: tuple[int, ...]) -> Tensor | None:
    """Tie each head in itself, and with the same head of the other side."""
    ids = []
    for x in sides:
        places = x.base.flatten(-2)
        line = tracer.book.tie(places.movedim(-1, 0).flatten(1)).reshape(places.shape[:-1])
        ids.append(Ids(line[..., None, None], (*x.shape[:-2], 1, 1)))
    met = meet(tracer, ids, (*shape[:-2], 1, 1), call.module)
    return None if met is None else met.base


def handed_through(tracer: Tracer, call: OpCall, left: Ids, right: Ids) -> Tensor | None:
    """The channels along m or along n, where there are some along one of them only."""
    if left.varies(-1) or right.varies(-2) or left.varies(-2) == right.varies(-1):
        return None
    through, other = (left, right) if left.varies(-2) else (right, left)
    tracer.book.freeze(other.base, f"broadcast over channels ({call.module})")
    return through.base


def attention(tracer: Tracer, call: OpCall) -> Ids | list[Ids]:
    """Scaled dot-product attention: two products."""
    query, key, value = (call.args[a] for a in ("query", "key", "value"))
    if call.args.get("enable_gqa"):
        key, value = (each_repeated(x, query.shape[-3]) for x in (key, value))
    turned = Ids(key.base.mT, (*key.shape[:-2], key.shape[-1], key.shape[-2]))
    shape = (*call.shape[:-1], key.shape[-2])
    scores = mixes(tracer, call, query, turned, shape)
    if scores is not None and isinstance(mask := call.args.get("attn_mask"), Ids):
        scores = meet(tracer, [scores, mask], shape, call.module)
    if scores is None:
        tracer.fixed_macs += tracer.per_example(call, prod(call.shape) * key.shape[-2])
    mixed = None if scores is None else mixes(tracer, call, scores, value, call.shape)
    return tracer.opaque(call, "attention") if mixed is None else mixed


def each_repeated(x: Ids, heads: int) -> Ids:
    """Keys or values of which each head serves several heads of queries."""
    times = heads // x.shape[-3]
    base = x.base.repeat_interleave(times, -3) if x.varies(-3) else x.base
    return Ids(base, (*x.shape[:-3], heads, *x.shape[-2:]))


def counted_macs(run: Callable[..., Tensor], tensors: Sequence[Ids]) -> int:
    """MACs of a product of any form, by torch's own counter on tensors without data.

    Whether torch counts a product with a vector depends on whether it wants gradients.
    """
    from torch.utils.flop_counter import FlopCounterMode  # brings Triton: a quarter of a second

    operands = [
        torch.empty(x.shape, device="meta", requires_grad=isinstance(x, StateIds)) for x in tensors
    ]
    with FlopCounterMode(display=False) as counter:
        run(*operands)
    return counter.get_total_flops() // 2


def lookup(tracer: Tracer, call: OpCall) -> Ids | list[Ids]:
    """Rows of a table of parameters, such as a bias of each head for each distance, are channels
    along its columns; any other indexing by a tensor fixes positions: what it reads stays."""
    table = call.args.get("weight" if call.op == "embedding" else "self")
    index = call.args.get("indices", call.args.get("index"))
    rows = index[0] if isinstance(index, list | tuple) and len(index) == 1 else index
    first = call.op in ("embedding", "index") or (call.op, call.args["dim"]) == ("index_select", 0)
    if not (first and isinstance(rows, Ids) and isinstance(table, StateIds)):
        return tracer.opaque(call, f"{call.op} by fixed positions")
    if len(table.shape) != 2 or table.whole is not None:
        return tracer.opaque(call, f"{call.op} by fixed positions")
    ids = tracer.book.fresh(table.shape[1])
    tracer.mark_axis(table.name, 1, ids)
    tracer.book.freeze(rows.base, f"positions in a table ({call.module})")
    return Ids.along(ids, len(call.shape) - 1, call.shape)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("matmul", "bmm", "mm", "einsum", "baddbmm", "addmm"), product),
    "scaled_dot_product_attention": attention,
    **dict.fromkeys(("index", "index_select", "gather", "embedding", "take_along_dim"), lookup),
}
