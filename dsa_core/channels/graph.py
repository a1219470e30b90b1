"""The channel graph: channels that are kept or removed together, and where each one lies."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dsa_core.channels.remedies import Clues, Remedies
from dsa_core.channels.stand_ins import holds


@dataclass(frozen=True)
class Group:
    """Channels that share a keep ratio. A channel of a group may be several channels of a layer,
    tied.

    Attributes:
        name: the first layer that makes these channels; "#2" is added for its second
            prunable group.
        size: number of channels.
        members: the layers that make them, in the order of the network.
        frozen: why they must all stay, or None if the group can be pruned.
        start: place of the group's first channel in the flat vector of prunable channels; -1 if
            frozen.
    """

    name: str
    size: int
    members: tuple[str, ...]
    frozen: str | None
    start: int


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer: its MACs are `coefficient * rows * columns` of its weight.

    Attributes:
        name: path of the module.
        kind: "conv", "conv_transpose", "depthwise", "linear", or "matrix": x @ W.
        weight: name of the weight in the state dict.
        shape: shape of the dense weight.
        coefficient: MACs of one example for each pair of entries of the weight's first two axes.
        out_channels, in_channels: place of every channel in the flat vector of prunable channels,
            -1 if it always stays; while tracing, ids. `in_channels` is None for a depthwise
            convolution, which makes and reads none.
    """

    name: str
    kind: str
    weight: str
    shape: tuple[int, ...]
    coefficient: int
    out_channels: Tensor
    in_channels: Tensor | None

    @property
    def out_axis(self) -> int:
        """The axis of the weight that its output channels lie on."""
        return 1 if self.kind in ("conv_transpose", "matrix") else 0

    @property
    def in_axis(self) -> int:
        """The axis of the weight that its input channels lie on."""
        return 1 - self.out_axis

    def moved(self, places: Tensor) -> "Layer":
        """The layer with channels at new places, (n + 1,): old place -> new, -1 for the last."""
        read = None if self.in_channels is None else places[self.in_channels]
        return replace(self, out_channels=places[self.out_channels], in_channels=read)


@dataclass(frozen=True)
class Norm:
    """A batch normalisation: names of its scale and shift, and its channels, as in `Layer`."""

    weight: str
    bias: str | None
    channels: Tensor

    def moved(self, places: Tensor) -> "Norm":
        """As `Layer.moved`."""
        return replace(self, channels=places[self.channels])


@dataclass(frozen=True, repr=False)
class ChannelGraph:
    """Where every channel of a network is made, read and stored.

    Prunable channels are numbered 0 .. n-1 group after group ("flat"): masks, importances and keep
    probabilities are vectors of that length, and `offsets` (K+1,) marks the K groups in it.

    Attributes:
        groups: all groups, prunable and frozen, in the order of the network.
        axes: for each parameter and buffer, axis -> flat channel of every position, int64, -1 if it
            stays.
        layers: what costs MACs, in order.
        norms: batch normalisations, in order.
        parameters: the shape of every parameter.
        fixed_macs: MACs that no keep ratio changes: of recurrent layers, of layers with computed
            weights, of products of activations that mix channels.
        products: of each other product of activations, its MACs and the heads, or the channels,
            that share them equally.
        frozen: reason -> number of layer channels that stay for it.
        unknown_ops: operators without a rule, and how often they occurred; all they touch is
            frozen.
        unused: parameters that the traced forward never reads; surgery leaves them as they are.
        input_shape: shape of the first tensor that the network was traced with.
        example: what it was traced with, shapes and structure only, as plain data for JSON (see
            `Call.describe`).
        outputs: channels of the first tensor of two axes or more that the network returns.
        clues, remedies: for a trial cut, and what it settled.
        stand_ins: path of a module -> which class takes the place of its own when it is cut.
    """

    groups: tuple[Group, ...]
    axes: dict[str, dict[int, Tensor]]
    layers: tuple[Layer, ...]
    norms: tuple[Norm, ...]
    parameters: dict[str, tuple[int, ...]]
    fixed_macs: int
    frozen: dict[str, int]
    unknown_ops: dict[str, int]
    unused: tuple[str, ...]
    input_shape: tuple[int, ...]
    example: dict[str, Any]
    outputs: int
    clues: Clues = field(default_factory=Clues)
    remedies: Remedies = field(default_factory=Remedies)
    products: tuple[tuple[int, Tensor], ...] = ()
    stand_ins: Mapping[str, str] = field(default_factory=dict)

    @property
    def prunable(self) -> tuple[Group, ...]:
        """The groups that have a keep ratio, in flat order."""
        return tuple(g for g in self.groups if g.frozen is None)

    @cached_property
    def sizes(self) -> Tensor:
        """Channels of every prunable group, int64, shape (K,)."""
        return torch.tensor([g.size for g in self.prunable], dtype=torch.int64)

    @cached_property
    def offsets(self) -> Tensor:
        """Bounds of the prunable groups in the flat vector, int64, shape (K+1,)."""
        return torch.cat([torch.zeros(1, dtype=torch.int64), self.sizes.cumsum(0)])

    @cached_property
    def n_channels(self) -> int:
        """Length of the flat vector."""
        return int(self.sizes.sum())

    @cached_property
    def consumers(self) -> tuple[tuple[str, int, Tensor], ...]:
        """Where channels are read: (weight, its input axis, flat channel of each position)."""
        return self._places(lambda layer: layer.in_axis)

    @cached_property
    def producers(self) -> tuple[tuple[str, int, Tensor], ...]:
        """Where channels are made: (weight, its output axis, flat channel of each position)."""
        return self._places(lambda layer: layer.out_axis)

    def _places(self, axis_of: Callable[[Layer], int]) -> tuple[tuple[str, int, Tensor], ...]:
        """One axis of every weight, where channels lie on it; without depthwise filters."""
        places = (
            (layer.weight, axis, self.axes.get(layer.weight, {}).get(axis))
            for layer in self.layers
            if layer.in_channels is not None
            for axis in [axis_of(layer)]
        )
        return tuple((name, axis, found) for name, axis, found in places if found is not None)

    @cached_property
    def first_scales(self) -> Tensor:
        """Of every flat channel the first BatchNorm scale, as its place in the concatenation of
        the scales of all `norms`; -1 if it passes none. int64, shape (n,)."""
        places = torch.full((self.n_channels,), -1)
        here = torch.cat([norm.channels for norm in self.norms] or [places[:0]])
        for place in range(len(here) - 1, -1, -1):  # backwards: the first one stays
            if here[place] >= 0:
                places[here[place]] = place
        return places

    def freeze(self, reasons: Mapping[str, str]) -> "ChannelGraph":
        """The same graph with some more groups that stay: name of a prunable group -> reason."""
        if not reasons:
            return self
        places = torch.full((self.n_channels + 1,), -1)  # the last: place -1
        groups, frozen, start = list(self.groups), dict(self.frozen), 0
        made = torch.cat([torch.zeros(0, dtype=torch.int64), *[m for _, _, m in self.producers]])
        for i, group in enumerate(self.groups):
            end = group.start + group.size
            if group.frozen is None and (why := reasons.get(group.name)) is not None:
                groups[i] = replace(group, frozen=why, start=-1)
                count = int(((made >= group.start) & (made < end)).sum())
                frozen[why] = frozen.get(why, 0) + count
            elif group.frozen is None:
                places[group.start : end] = torch.arange(start, start + group.size)
                groups[i] = replace(group, start=start)
                start += group.size
        moved = {n: {a: places[c] for a, c in axes.items()} for n, axes in self.axes.items()}
        return replace(
            self,
            groups=tuple(groups),
            axes=without_empty(moved),
            layers=tuple(layer.moved(places) for layer in self.layers),
            norms=tuple(norm.moved(places) for norm in self.norms),
            frozen=frozen,
            clues=self.clues.moved(places),
            products=tuple((macs, places[channels]) for macs, channels in self.products),
        )

    def report(self) -> str:
        """What stays and why, what was not understood, what was never reached, and which modules
        get another class when they are cut."""
        lines = [f"{count:6d} channels stay: {reason}" for reason, count in self.frozen.items()]
        lines += [
            f"unknown op {op} ({n} times): all it touches stays"
            for op, n in self.unknown_ops.items()
        ]
        if self.unused:
            lines.append(f"never read in this forward, left as they are: {', '.join(self.unused)}")
        if self.remedies.attributes:
            lines.append(f"numbers that a cut changes: {shorten(sorted(self.remedies.attributes))}")
        for change in sorted(set(self.stand_ins.values())):
            paths = [p for p, c in self.stand_ins.items() if c == change and holds(p, self.axes)]
            if paths:
                lines.append(f"when cut, {change}, of the same parameters: {shorten(paths)}")
        return "\n".join(lines) or "every channel can be pruned"

    def __repr__(self) -> str:
        stay = ", ".join(f"{reason} {count}" for reason, count in self.frozen.items())
        lines = [
            f"ChannelGraph: {len(self.prunable)} prunable groups of {self.n_channels} channels in "
            f"all, {len(self.layers)} layers",
            f"  channels that stay: {sum(self.frozen.values())}" + (f" ({stay})" if stay else ""),
        ]
        if self.unknown_ops:
            lines.append(f"  unknown ops: {', '.join(self.unknown_ops)}")
        if self.unused:
            lines.append(f"  parameters never read: {len(self.unused)}")
        return "\n".join([*lines, "  print(graph) lists the groups"])

    def __str__(self) -> str:
        width = max((len(g.name) for g in self.groups), default=4)
        rows = [f"{'group':>5}  {'name':<{width}}  {'channels':>8}  members"]
        for i, group in enumerate(self.prunable):
            rows.append(f"{i:5d}  {group.name:<{width}}  {group.size:8d}  {shorten(group.members)}")
        return "\n".join([*rows, self.report()])


def without_empty(axes: Mapping[str, Mapping[int, Tensor]]) -> dict[str, dict[int, Tensor]]:
    """Only the axes on which some channel can be cut, of the tensors that have one."""
    lines = [channels for by_axis in axes.values() for channels in by_axis.values()]
    if not lines:
        return {}
    ends = torch.tensor([0, *(len(line) for line in lines)]).cumsum(0)
    prunable = torch.cat([torch.zeros(1, dtype=torch.int64), (torch.cat(lines) >= 0).cumsum(0)])
    some = iter(prunable[ends].diff().tolist())
    kept = {n: {a: c for a, c in on.items() if next(some)} for n, on in axes.items()}
    return {name: by_axis for name, by_axis in kept.items() if by_axis}


def shorten(names: Sequence[str]) -> str:
    """The first four of a list of names."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
