"""Layers with weights: who reads channels, who makes new ones, and what one of them costs."""

from math import prod

import torch
from torch import Tensor

from dsa_core.channels.graph import Layer, Norm
from dsa_core.channels.ids import NO_CHANNEL, Ids
from dsa_core.channels.opcall import OpCall, StateIds
from dsa_core.channels.recipes import Computed
from dsa_core.channels.tracer import Rule, Tracer
from dsa_core.errors import TraceError

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
NONE = torch.tensor([NO_CHANNEL])
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


def convolution(tracer: Tracer, call: OpCall) -> Ids | list[Ids]:
    """Read the input channels, make fresh output channels.

    With `groups` > 1 the same position of every group is united, on both sides, so that each group
    loses as many channels. A depthwise convolution hands its input channels through.
    """
    weight, x = call.args["weight"], call.args["input"]
    name = weight.name if isinstance(weight, StateIds | Computed) else None
    transposed = call.op in TRANSPOSED
    unbatched = len(call.shape) < len(weight.shape)
    if name is None or unbatched:
        if unbatched and tracer.rank == len(weight.shape) - 1:
            raise TraceError(
                f"{call.module or 'the network'} reads {x.shape}: the example looks like one image "
                "(or signal) without a batch axis; give it one, x[None]"
            )
        positions = x.shape if transposed else call.shape
        tracer.fixed_macs += tracer.per_example(call, prod(weight.shape[1:]) * prod(positions))
        why = "without a batch axis" if unbatched else "with a computed weight"
        return tracer.opaque(call, f"convolution {why}")
    groups, own = call.args["groups"], call.module or name.removesuffix(".weight")
    in_ids = tracer.book.fold(x, 1)
    area = prod(x.shape[2:]) if transposed else prod(call.shape[2:])
    coefficient = prod(weight.shape[2:]) * tracer.per_example(call, area * call.shape[0])
    if groups > 1 and groups == len(in_ids):
        out_ids = in_ids.repeat_interleave(call.shape[1] // groups)
        mark_weight(tracer, call, in_ids if transposed else out_ids, NONE.expand(weight.shape[1]))
        add_layer(tracer, own, "depthwise", name, coefficient, (out_ids, None))
    else:
        in_row = tracer.book.tie(in_ids.reshape(groups, -1))
        out_ids = tracer.book.fresh(call.shape[1])
        out_row = tracer.book.tie(out_ids.reshape(groups, -1))
        mark_weight(tracer, call, *((in_ids, out_row) if transposed else (out_ids, in_row)))
        kind = "conv_transpose" if transposed else "conv"
        add_layer(tracer, own, kind, name, coefficient, (out_ids, in_ids))
    mark_line(tracer, call, "bias", out_ids)
    return Ids.along(out_ids, 1, call.shape)


def mark_weight(tracer: Tracer, call: OpCall, rows: Tensor, columns: Tensor) -> None:
    """Note the ids along the first two axes of a weight, or of what it is computed from."""
    weight = call.args["weight"]
    marks = [(weight.name, 0, rows), (weight.name, 1, columns)]
    for name, axis, ids in weight.marks(rows, columns) if isinstance(weight, Computed) else marks:
        if bool((ids != NO_CHANNEL).any()):
            tracer.mark_axis(name, axis, ids)


def linear(tracer: Tracer, call: OpCall) -> Ids | list[Ids]:
    """Read the last axis, make fresh features."""
    weight, x = call.args["weight"], call.args["input"]
    if isinstance(weight, Computed) and weight.name is not None and not is_across(x):
        in_ids, out_ids = tracer.book.fold(x, len(x.shape) - 1), tracer.book.fresh(call.shape[-1])
        mark_weight(tracer, call, out_ids, in_ids)
        calls = tracer.per_example(call, prod(x.shape[:-1]))
        add_layer(tracer, call.module, "linear", weight.name, calls, (out_ids, in_ids))
    elif isinstance(weight, StateIds) and not is_across(x):
        out_ids = matrix(tracer, call, x, weight.turned())
    else:
        macs = prod(x.shape[:-1]) * prod(weight.shape)
        tracer.fixed_macs += tracer.per_example(call, macs)
        across = "across another axis than the channels"
        why = across if is_across(x) else "with a computed weight"
        return tracer.opaque(call, f"linear layer {why}")
    mark_line(tracer, call, "bias", out_ids)
    return Ids.along(out_ids, len(call.shape) - 1, call.shape)


def is_across(x: Ids) -> bool:
    """Whether channels lie on other axes than the last."""
    return not x.varies(-1) and any(n > 1 for n in x.base.shape[:-1])


def matrix_product(tracer: Tracer, call: OpCall) -> Ids | None:
    """A product x @ W with a matrix of parameters, which is a layer; None if it is something
    else."""
    x, weight = call.tensors()[-2:] if len(call.tensors()) > 1 else (None, None)
    if call.op == "einsum":
        weight = as_matrix(call, weight)
    if not isinstance(weight, StateIds) or isinstance(x, StateIds) or x is None:
        return None
    if len(weight.shape) != 2 or is_across(x) or len(x.shape) < 2:
        return None
    out_ids = matrix(tracer, call, x, weight)
    if call.op == "addmm":
        mark_line(tracer, call, "self", out_ids)
    return Ids.along(out_ids, len(call.shape) - 1, call.shape)


def as_matrix(call: OpCall, weight: Ids | None) -> Ids | None:
    """The matrix W of which an einsum is x @ W over the last axis of x, or None."""
    reads, _, makes = call.args["equation"].replace(" ", "").partition("->")
    left, _, right = reads.partition(",")
    if len(right) != 2 or not isinstance(weight, StateIds) or left[:-1] != makes[:-1]:
        return None
    inner, outer = left[-1:], makes[-1:]
    if inner == outer or outer in left:
        return None
    return (
        weight if right == inner + outer else (weight.turned() if right == outer + inner else None)
    )


def matrix(tracer: Tracer, call: OpCall, x: Ids, weight: StateIds) -> Tensor:
    """Note the layer x @ W over the last axis; returns the ids of the features that it makes."""
    in_ids, out_ids = tracer.book.fold(x, len(x.shape) - 1), tracer.book.fresh(weight.shape[1])
    stored = weight.whole is None  # as (in, out); a linear layer stores (out, in)
    tracer.mark_axis(weight.name, 0, in_ids if stored else out_ids)
    tracer.mark_axis(weight.name, 1, out_ids if stored else in_ids)
    calls = tracer.per_example(call, prod(x.shape[:-1]))
    kind = "matrix" if stored else "linear"
    own = (call.module if call.op == "linear" else "") or weight.name.removesuffix(".weight")
    add_layer(tracer, own, kind, weight.name, calls, (out_ids, in_ids))
    return out_ids


def add_layer(
    tracer: Tracer,
    name: str,
    kind: str,
    weight: str,
    coefficient: int,
    ids: tuple[Tensor, Tensor | None],
) -> None:
    """Note a layer with the ids that it makes and reads; one that runs several times costs each."""
    before = tracer.layers.get(weight)
    if before is not None and before.kind != kind:
        for some in (before.out_channels, before.in_channels, *ids):
            if some is not None:
                tracer.book.freeze(some, f"{weight} is used in two ways")
    total = coefficient + (0 if before is None else before.coefficient)
    tracer.layers[weight] = Layer(name, kind, weight, tracer.elements[weight].shape, total, *ids)


def mark_line(tracer: Tracer, call: OpCall, argument: str, ids: Tensor) -> None:
    """A bias or scale has an entry for each of the channels, or one for all of them."""
    line, name = call.args.get(argument), call.state(argument)
    if isinstance(line, Computed):
        for source, axis, part in line.marks(ids, None):
            tracer.mark_axis(source, axis, part)
    elif line is None or prod(line.shape) == 1 < len(ids):
        return
    elif line.shape != (len(ids),):
        tracer.book.freeze(ids, f"computed {argument} ({call.module})")
    elif name is None:
        tracer.book.unite(ids, line.base.expand(len(ids)))
    else:
        tracer.mark_axis(name, 0, ids)


def batch_norm(tracer: Tracer, call: OpCall) -> Ids:
    """Scale and shift each channel by itself; the statistics belong to the same channels."""
    x = call.args["input"]
    ids = tracer.book.fold(x, 1)
    for argument in ("weight", "bias", "running_mean", "running_var"):
        mark_line(tracer, call, argument, ids)
    if (weight := call.state("weight")) is not None:
        tracer.norms.append(Norm(weight, call.state("bias"), ids))
    return Ids(x.base, x.shape)


def layer_norm(tracer: Tracer, call: OpCall) -> Ids:
    """Normalise over the last axes: where channels lie there, each depends on all, so they stay."""
    x = call.args["input"]
    first = len(x.shape) - len(call.args["normalized_shape"])
    if any(x.varies(axis) for axis in range(first, len(x.shape))):
        tracer.book.freeze(x.base, f"LayerNorm over channels ({call.module})")
    return Ids(x.base, x.shape)


def group_norm(tracer: Tracer, call: OpCall) -> Ids:
    """Normalise over sets of channels, each of which lives or dies as a whole."""
    x = call.args["input"]
    if call.args["num_groups"] == 1:
        tracer.book.freeze(x.base, f"GroupNorm over all channels ({call.module})")
        return Ids(x.base, x.shape)
    rows = tracer.book.fold(x, 1).reshape(call.args["num_groups"], -1)
    ids = tracer.book.tie(rows.T).repeat_interleave(rows.shape[1])
    for argument in ("weight", "bias"):
        mark_line(tracer, call, argument, ids)
    return Ids.along(ids, 1, x.shape)


def prelu(tracer: Tracer, call: OpCall) -> Ids:
    """A slope for each channel, or one for all."""
    x = call.args["self"]
    if prod(call.args["weight"].shape) > 1:
        mark_line(tracer, call, "weight", tracer.book.fold(x, 1))
    return Ids(x.base, x.shape)


RULES: dict[str, Rule] = {
    **dict.fromkeys(CONVOLUTIONS + TRANSPOSED, convolution),
    "linear": linear,
    "batch_norm": batch_norm,
    "instance_norm": batch_norm,
    "layer_norm": layer_norm,
    "rms_norm": layer_norm,
    "group_norm": group_norm,
    "prelu": prelu,
}
