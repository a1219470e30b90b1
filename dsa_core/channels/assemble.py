"""Follow a network: export it, follow its channels, and assemble what was learned into a graph."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dsa_core.channels import rules_layers, rules_math, rules_moves, rules_products
from dsa_core.channels.checks import check_device, check_traceable
from dsa_core.channels.export import export, program_of
from dsa_core.channels.graph import ChannelGraph, without_empty
from dsa_core.channels.grouping import group_classes
from dsa_core.channels.ids import NO_CHANNEL, Ids
from dsa_core.channels.program import Program
from dsa_core.channels.recorder import record
from dsa_core.channels.remedies import Clues, Remedies
from dsa_core.channels.stand_ins import stand_in, standing_in
from dsa_core.channels.tracer import Tracer, state_aliases
from dsa_core.errors import TraceError
from dsa_core.example import Call

RULES = {**rules_moves.RULES, **rules_math.RULES, **rules_layers.RULES, **rules_products.RULES}
TURNS = 4  # of views, until the heads of all products lie apart


def follow(model: nn.Module, example: Any, remedies: Remedies | None = None) -> ChannelGraph:
    """Follow every channel of a network through one forward pass in evaluation mode.

    The operators that it calls are run once with channel ids in place of activations; ids that
    meet in an elementwise operator are united, ids that an operator mixes are frozen. Channels made
    and read by the same layers form a group. This is the topological grouping of DSA: cut at every
    ordinary convolution, what stays connected shares one keep ratio and one mask. Where channels of
    one layer are read by different layers, the group is split further than there, which keeps the
    cost an exact quadratic form.

    Whether the network agrees is not asked here: `dsa_core.trace` asks it, and takes these
    arguments and raises these errors.

    Args:
        model: any network that can be recorded (see `recorder`) or that `torch.export` accepts; it
            is not changed.
        example: what it is called with, see `dsa_core.trace`.
        remedies: what an earlier trace of this network settled.

    Source: Ning et al., DSA, ECCV 2020 (arXiv:2004.02164), "topological grouping".
    """
    call = Call.of(example)
    graph = interpret(program_for(model, call), model, call, remedies)
    return replace(graph, clues=Clues())  # they hold all ids


def program_for(model: nn.Module, call: Call) -> Program:
    """The operators of a network that is fit to be followed, recorded or else exported."""
    check_traceable(model)
    check_device(model, call)
    with standing_in(model):
        try:
            return record(model, call)
        except Exception:  # whatever it is, torch.export knows better, or says what is wrong
            return program_of(export(model, call), model)


def interpret(
    program: Program, model: nn.Module, call: Call, remedies: Remedies | None
) -> ChannelGraph:
    """Follow the channels through the operators of a network.

    Without remedies, views are turned until the heads of products lie apart.
    """
    names = state_aliases(model)
    settled = remedies or Remedies()
    for _ in range(1 if remedies else TURNS):
        tracer = interpreted(program, names, call, settled.turned)
        if (wished := tracer.wished()) == settled.turned or remedies:
            break
        settled = Remedies(turned=wished)
    graph = assemble(tracer, model, call, names)
    return replace(graph.freeze(settled.frozen), remedies=settled)


def interpreted(
    program: Program, names: Mapping[str, list[str]], call: Call, turned: Sequence[int]
) -> Tracer:
    """The state after one run of the operators on ids."""
    first = {alias: name for name, aliases in names.items() for alias in aliases}
    tracer = Tracer(RULES, first, batch=call.batch, rank=call.first_tensor.ndim, turned=turned)
    tracer.run(program)
    if all(layer.in_channels is None for layer in tracer.layers.values()):
        raise TraceError(
            "the network has no linear layer, and no convolution that is not depthwise: there is "
            "nothing to prune"
        )
    return tracer


def assemble(
    tracer: Tracer, model: nn.Module, call: Call, names: Mapping[str, list[str]]
) -> ChannelGraph:
    """Turn ids into classes, classes into groups, and number the prunable channels."""
    mark_elements(tracer)
    parameters = {n: tuple(p.shape) for n, p in model.named_parameters()}
    keep_buffers(tracer, parameters)
    groups, places, frozen = group_classes(tracer, tracer.book.classes(), parameters)
    views = zip(tracer.views, tracer.ways, strict=True)
    halves = tuple(ids if ways == 2 else ids[:0] for ids, ways in views)
    axes = {n: {a: places[ids] for a, ids in on.items()} for n, on in tracer.axes.items()}
    return ChannelGraph(
        groups=groups,
        axes={alias: v for n, v in without_empty(axes).items() for alias in names.get(n, [n])},
        layers=tuple(layer.moved(places) for layer in tracer.layers.values()),
        norms=tuple(norm.moved(places) for norm in tracer.norms),
        parameters=parameters,
        fixed_macs=tracer.fixed_macs,
        frozen=frozen,
        unknown_ops=tracer.unknown_ops,
        unused=tuple(n for n in parameters if n not in tracer.read),
        input_shape=tuple(call.first_tensor.shape),
        example=call.describe(),
        outputs=tracer.outputs,
        clues=Clues(halves, tracer.seen, places),
        products=tuple((macs, places[ids]) for macs, ids in tracer.products),
        stand_ins={
            path: f"{type(module).__name__} becomes {kind.__name__}"
            for path, module in model.named_modules()
            if (kind := stand_in(module)) is not None
        },
    )


def keep_buffers(tracer: Tracer, parameters: Collection[str]) -> None:
    """Freeze what layers make and read whose weight is a buffer: a mask multiplies parameters."""
    for name, layer in tracer.layers.items():
        if layer.in_channels is not None and name not in parameters:
            for ids in (layer.in_channels, layer.out_channels):
                tracer.book.freeze(ids, f"the weight {name} is a buffer, not a parameter")


def mark_elements(tracer: Tracer) -> None:
    """Find the axis of each parameter that met channels element by element.

    A scale for each channel is such a parameter.
    """
    classes = tracer.book.classes()
    made = torch.zeros(len(classes), dtype=torch.bool)
    made[classes[torch.cat([t.out_channels for t in tracer.layers.values()])]] = True
    channel = torch.where(made[classes], classes, NO_CHANNEL)
    for name, value in tracer.elements.items():
        if value.touched:
            mark_elementwise(tracer, name, value.base, channel)


def mark_elementwise(tracer: Tracer, name: str, elements: Tensor, channel: Tensor) -> None:
    """Find the axis of one parameter along which its elements, by their ids, belong to channels.

    `channel` gives the class of an id if it is a channel that a layer makes, else -1.
    """
    marked = tracer.axes.get(name, {})
    if marked and elements.ndim > 1:  # a weight of a layer that is also used otherwise
        reason = f"{name} is used in two ways"
        tracer.book.freeze(elements, reason)
        for ids in marked.values():
            tracer.book.freeze(ids, reason)
        return
    if marked:
        tracer.mark_axis(name, 0, elements)
        return
    classes = channel[elements]
    varying = Ids.of(classes)
    axes = [axis for axis in range(elements.ndim) if varying.varies(axis)]
    if len(axes) == 1:
        n = elements.shape[axes[0]]
        line = elements.movedim(axes[0], 0).reshape(n, -1)[:, 0]
        has = classes.movedim(axes[0], 0).reshape(n, -1)[:, 0] >= 0
        tracer.mark_axis(name, axes[0], torch.where(has, line, NO_CHANNEL))
    elif bool((classes >= 0).any()):
        tracer.book.freeze(elements, f"{name} holds channels on several axes or as a whole")
