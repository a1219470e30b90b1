"""From ids to groups: united ids are one channel; channels made and read alike share a keep
ratio."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dsa_core.channels.tracer import LayerTrace, Tracer

ALONE = "one channel alone: nothing to remove"


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
class Grouping:
    """The groups, and the way from ids to them.

    Attributes:
        groups: in the order of the network.
        classes: id -> class.
        flat_of_class: class -> place in the flat vector of prunable channels, -1 if it stays.
        frozen: reason -> number of layer channels that stay for it.
    """

    groups: tuple[Group, ...]
    classes: Tensor
    flat_of_class: Tensor
    frozen: dict[str, int]

    def flat(self, ids: Tensor) -> Tensor:
        """The place of each id in the flat vector, -1 where the channel stays or there is none."""
        return torch.where(ids >= 0, self.flat_of_class[self.classes[ids.clamp_min(0)]], -1)

    def flat_of_each(self, lines: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The same for many lines of ids at once."""
        joined = torch.cat([torch.zeros(0, dtype=torch.int64), *lines])
        return self.flat(joined).split([len(line) for line in lines])


def group_classes(tracer: Tracer, classes: Tensor, parameters: Collection[str]) -> Grouping:
    """Collect classes that lie alike in all parameters and are frozen for the same reason."""
    producers = [layer for layer in tracer.layers.values() if layer.in_ids is not None]
    made = torch.cat([layer.out_ids for layer in producers])
    ordered = in_order(classes[made])  # classes that are channels, first made first
    reasons, names = reasons_of_classes(tracer, classes)
    marks = fingerprints(tracer, classes, parameters)
    keys = np.stack([marks[ordered.numpy()], reasons[ordered].numpy().astype(np.uint64)])
    _, label = np.unique(keys, axis=1, return_inverse=True)
    labels = torch.from_numpy(label.reshape(-1))
    members = members_of(producers, classes, ordered, labels)
    flat_of_class = torch.full((int(classes.max()) + 1,), -1)
    groups: list[Group] = []
    frozen, start = dict.fromkeys(names, 0), 0
    channels_of_class = torch.bincount(classes[made], minlength=len(flat_of_class))
    taken: dict[bool, set[str]] = {True: set(), False: set()}
    for value, mine in parts(ordered, labels):
        reason = int(reasons[mine[0]])
        why = names[reason] if reason >= 0 else (ALONE if len(mine) == 1 else None)
        if why is None:
            flat_of_class[mine] = torch.arange(start, start + len(mine))
        else:
            frozen[why] = frozen.get(why, 0) + int(channels_of_class[mine].sum())
        where = start if why is None else -1
        name = unique_name(members[value][0], taken[why is None])
        groups.append(Group(name, len(mine), members[value], why, where))
        start += len(mine) if why is None else 0
    return Grouping(tuple(groups), classes, flat_of_class, {r: n for r, n in frozen.items() if n})


def parts(values: Tensor, labels: Tensor) -> list[tuple[int, Tensor]]:
    """The values of each label, in the order in which the labels first appear."""
    order = labels.argsort(stable=True)
    pieces = values[order].split(torch.bincount(labels).tolist())
    return [(label, pieces[label]) for label in in_order(labels).tolist()]


def unique_name(name: str, taken: set[str]) -> str:
    """A layer may begin several groups: the second is called "name#2"; notes the name as taken."""
    count = 1
    while (candidate := name if count == 1 else f"{name}#{count}") in taken:
        count += 1
    taken.add(candidate)
    return candidate


def in_order(values: Tensor) -> Tensor:
    """The distinct values in the order of their first appearance."""
    distinct, first = np.unique(values.numpy(), return_index=True)
    return torch.from_numpy(distinct[np.argsort(first)])


def reasons_of_classes(tracer: Tracer, classes: Tensor) -> tuple[Tensor, list[str]]:
    """For each class the number of the first reason that froze it, or -1; and the reasons."""
    names = list(dict.fromkeys(reason for reason, _ in tracer.book.frozen))
    reasons = torch.full((int(classes.max()) + 1,), -1)
    for reason, ids in reversed(tracer.book.frozen):
        reasons[classes[ids]] = names.index(reason)
    return reasons, names


def fingerprints(tracer: Tracer, classes: Tensor, parameters: Collection[str]) -> np.ndarray:
    """A number for each class: equal where it lies equally often on the same axes of the same
    parameters.

    The counts are hashed with random 64-bit factors, so that the cost is one pass over all axes.
    """
    factors = np.random.default_rng(0)
    marks = np.zeros(int(classes.max()) + 1, dtype=np.uint64)
    for name in parameters:  # buffers cost nothing: where channels lie in them is no matter
        for ids in tracer.axes.get(name, {}).values():
            factor = factors.integers(1, 2**63, dtype=np.uint64)
            np.add.at(marks, classes[ids[ids >= 0]].numpy(), factor)
    return marks


def members_of(
    producers: list[LayerTrace], classes: Tensor, ordered: Tensor, labels: Tensor
) -> dict[int, tuple[str, ...]]:
    """The layers that make the channels of each group, in the order of the network."""
    label_of_class = torch.full((int(classes.max()) + 1,), -1)
    label_of_class[ordered] = labels
    members: dict[int, dict[str, None]] = {}
    for layer in producers:
        for label in label_of_class[classes[layer.out_ids]].unique().tolist():
            members.setdefault(label, {})[layer.name] = None
    return {label: tuple(names) for label, names in members.items()}
