"""Layers with weights: who reads channels, who makes new ones, and what one of them costs."""

from math import prod

from torch import Tensor

from dsa_core.channels.ids import Ids
from dsa_core.channels.tracer import LayerTrace, NormTrace, OpCall, Rule, Tracer
from dsa_core.errors import TraceError

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


def convolution(tracer: Tracer, call: OpCall) -> Ids | list[Ids]:
    """Read the input channels, make fresh output channels.

    With `groups` > 1 the same position of every group is united, on both sides, so that each group
    loses as many channels. A depthwise convolution hands its input channels through.
    """
    weight, x = call.args["weight"], call.args["input"]
    name = call.state("weight")
    transposed = call.op in TRANSPOSED
    unbatched = len(call.shape) < len(weight.shape)
    if name is None or unbatched:
        if unbatched and tracer.rank == len(weight.shape) - 1:
            raise TraceError(
                f"{call.module or 'the network'} reads {x.shape}: the example looks like one image "
                "(or signal) without a batch axis; give it one, x[None]"
            )
        positions = x.shape if transposed else call.shape
        tracer.fixed_macs += prod(weight.shape[1:]) * prod(positions) // tracer.batch
        why = "without a batch axis" if unbatched else tracer.computed_weight(call)
        return tracer.opaque(call, f"convolution {why}")
    groups = call.args["groups"]
    in_ids = tracer.book.fold(x, 1)
    area = prod(x.shape[2:]) if transposed else prod(call.shape[2:])
    coefficient = prod(weight.shape[2:]) * area * call.shape[0] // tracer.batch
    if groups > 1 and not transposed and weight.shape[1] == 1:
        out_ids = in_ids.repeat_interleave(call.shape[1] // len(in_ids))
        tracer.mark_axis(name, 0, out_ids)
        layer = LayerTrace(call.module, "depthwise", name, coefficient, out_ids, None)
    else:
        in_row = tracer.book.tie(in_ids.reshape(groups, -1))
        out_ids = tracer.book.fresh(call.shape[1])
        out_row = tracer.book.tie(out_ids.reshape(groups, -1))
        axis_out, axis_in = (1, 0) if transposed else (0, 1)
        tracer.mark_axis(name, axis_out, out_row if transposed else out_ids)
        tracer.mark_axis(name, axis_in, in_ids if transposed else in_row)
        kind = "conv_transpose" if transposed else "conv"
        layer = LayerTrace(call.module, kind, name, coefficient, out_ids, in_ids)
    add_layer(tracer, layer)
    mark_bias(tracer, call, out_ids)
    return Ids.along(out_ids, 1, call.shape)


def linear(tracer: Tracer, call: OpCall) -> Ids | list[Ids]:
    """Read the last axis, make fresh features."""
    weight, x = call.args["weight"], call.args["input"]
    name = call.state("weight")
    calls = prod(x.shape[:-1]) // tracer.batch
    across = not x.varies(-1) and any(n > 1 for n in x.base.shape[:-1])
    if name is None or across:
        tracer.fixed_macs += calls * prod(weight.shape)
        why = (
            "linear layer across another axis than the channels"
            if across
            else f"linear layer {tracer.computed_weight(call)}"
        )
        return tracer.opaque(call, why)
    in_ids = tracer.book.fold(x, len(x.shape) - 1)
    out_ids = tracer.book.fresh(weight.shape[0])
    tracer.mark_axis(name, 0, out_ids)
    tracer.mark_axis(name, 1, in_ids)
    add_layer(tracer, LayerTrace(call.module, "linear", name, calls, out_ids, in_ids))
    mark_bias(tracer, call, out_ids)
    return Ids.along(out_ids, len(call.shape) - 1, call.shape)


def add_layer(tracer: Tracer, layer: LayerTrace) -> None:
    """Note a layer; one that runs several times costs each time."""
    before = tracer.layers.get(layer.weight)
    if before is not None:
        layer.coefficient += before.coefficient
    tracer.layers[layer.weight] = layer


def mark_bias(tracer: Tracer, call: OpCall, ids: Tensor) -> None:
    """A bias belongs to the output channels; one that was computed cannot be cut."""
    if call.args.get("bias") is None:
        return
    name = call.state("bias")
    if name is None:
        tracer.book.freeze(ids, f"computed bias ({call.module})")
    else:
        tracer.mark_axis(name, 0, ids)


def batch_norm(tracer: Tracer, call: OpCall) -> Ids:
    """Scale and shift each channel by itself; the statistics belong to the same channels."""
    x = call.args["input"]
    ids = tracer.book.fold(x, 1)
    for argument in ("weight", "bias", "running_mean", "running_var"):
        name = call.state(argument)
        if name is not None:
            tracer.mark_axis(name, 0, ids)
        elif call.args.get(argument) is not None:
            tracer.book.freeze(ids, f"computed {argument} ({call.module})")
    if (weight := call.state("weight")) is not None:
        tracer.norms.append(NormTrace(weight, call.state("bias"), ids))
    return Ids(x.base, x.shape)


def layer_norm(tracer: Tracer, call: OpCall) -> Ids:
    """Normalise over the last axes: where channels lie there, each depends on all, so they stay."""
    x = call.args["input"]
    first = len(x.shape) - len(call.args["normalized_shape"])
    if any(x.varies(axis) for axis in range(first, len(x.shape))):
        tracer.book.freeze(x.base, f"LayerNorm over channels ({call.module})")
    return Ids(x.base, x.shape)


def group_norm(tracer: Tracer, call: OpCall) -> Ids:
    """Normalise over sets of channels, which therefore stay."""
    x = call.args["input"]
    tracer.book.freeze(x.base, f"GroupNorm mixes channels ({call.module})")
    return Ids(x.base, x.shape)


def prelu(tracer: Tracer, call: OpCall) -> Ids:
    """A slope for each channel, or one for all."""
    x, name = call.args["self"], call.state("weight")
    if name is None:
        tracer.opaque(call, "PReLU with a computed slope")
    elif prod(call.args["weight"].shape) > 1:
        tracer.mark_axis(name, 0, tracer.book.fold(x, 1))
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

__all__ = ["RULES"]
