"""Whole numbers that a network's modules hold and that stand for a width, or a count of heads."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from dsa_core.channels import ChannelGraph
from dsa_core.channels.remedies import Width

TRIES = 12  # attributes that are tried one by one for one group
SIZED = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase)  # `prune` handles them


def holding(graph: ChannelGraph, name: str) -> dict[tuple[str, int], int]:
    """The axes of tensors that hold channels of a group, with their lengths."""
    span = span_of(graph, name)
    return {
        (tensor, axis): len(channels)
        for tensor, by_axis in graph.axes.items()
        for axis, channels in by_axis.items()
        if span & set(channels.tolist())
    }


def span_of(graph: ChannelGraph, name: str) -> set[int]:
    """The flat channels of a prunable group."""
    group = next(g for g in graph.prunable if g.name == name)
    return set(range(group.start, group.start + group.size))


def attributes_near(model: nn.Module, graph: ChannelGraph, name: str) -> Iterator[dict[str, Width]]:
    """Whole numbers that may stand for a group's width: one by one, then all at once.

    They are looked for in the modules whose operators handle the group's channels, and above.
    """
    found = numbers_near(model, graph, name)
    ordered = sorted(found.items(), key=lambda item: item[1].divisor)
    exact = dict(item for item in ordered if item[1].divisor == 1)
    yield from ({attribute: width} for attribute, width in ordered[:TRIES])
    yield from (several for several in (exact, found) if len(several) > 1)


def numbers_near(
    model: nn.Module, graph: ChannelGraph, name: str, *, above: bool = True
) -> dict[str, Width]:
    """Whole numbers that may stand for a group's width, in the modules whose operators handle its
    channels, and in those above them; not above: and not those that may be another width.
    """
    span, held = span_of(graph, name), holding(graph, name)
    homes = [p for p, channels in graph.clues.modules.items() if span & set(channels.tolist())]
    found: dict[str, Width] = {}
    for path, module in model.named_modules():
        near = any(f"{h}.".startswith(f"{path}.") if above else h == path for h in homes)
        if isinstance(module, SIZED) or not near:
            continue
        others: Sequence[int] = () if above else other_widths(module, path, held)
        for attribute, value in vars(module).items():
            width = next((w for w in widths(held, value)), None)
            if width is not None and value not in others:
                found[f"{path}.{attribute}" if path else attribute] = width
    return found


def other_widths(module: nn.Module, path: str, held: Mapping[tuple[str, int], int]) -> list[int]:
    """The lengths of the axes of a module's own parameters that hold no channel of a group."""
    return [
        n
        for name, p in module.named_parameters(prefix=path, recurse=False)
        for axis, n in enumerate(p.shape)
        if (name, axis) not in held
    ]


def value_of(model: nn.Module, attribute: str) -> Any:
    """What a module's attribute is."""
    path, _, name = attribute.rpartition(".")
    return vars(model.get_submodule(path))[name]


def kind_of(model: nn.Module, attribute: str) -> str:
    """An attribute by the class of the module that holds it."""
    path, _, name = attribute.rpartition(".")
    return f"{type(model.get_submodule(path)).__qualname__}.{name}"


def widths(held: Mapping[tuple[str, int], int], value: Any) -> Iterator[Width]:
    """The axes whose length is a multiple of a number, or the sum of some, shortest first."""
    numbers = value if type(value) in (list, tuple) and len(value) > 1 else [value]
    if any(type(n) is not int or n < 2 for n in numbers):
        return
    for (tensor, axis), length in sorted(held.items(), key=lambda item: item[1]):
        if len(numbers) == 1 and length % value == 0:
            yield Width(tensor=tensor, axis=axis, divisor=length // value)
        elif sum(numbers) == length:
            yield Width(tensor=tensor, axis=axis, pieces=tuple(numbers))
