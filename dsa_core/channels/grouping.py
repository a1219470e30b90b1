"""From ids to groups: united ids are one channel; channels made and read alike share a keep
ratio."""

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from dsa_core.channels.graph import Group, Layer
from dsa_core.channels.tracer import Tracer

ALONE = "one channel alone: nothing to remove"


def group_classes(
    tracer: Tracer, classes: Tensor, parameters: Collection[str]
) -> tuple[tuple[Group, ...], Tensor, dict[str, int]]:
    """Collect classes that lie alike in all parameters and are frozen for the same reason.

    Returns:
        The groups in the order of the network; id -> place in the flat vector of prunable channels,
        -1 where the channel stays, with one entry more, for `NO_CHANNEL`; and reason -> number of
        layer channels that stay for it.
    """
    producers = [layer for layer in tracer.layers.values() if layer.in_channels is not None]
    made = torch.cat([layer.out_channels for layer in producers])
    ordered = in_order(classes[made])  # classes that are channels, first made first
    reasons, names = reasons_of_classes(tracer, classes)
    marks = fingerprints(tracer, classes, parameters)
    _, label = np.unique(marks[ordered.numpy()], return_inverse=True)
    pairs = torch.from_numpy(label) * (len(names) + 1) + reasons[ordered] + 1
    labels = pairs.unique(return_inverse=True)[1]
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
    places = torch.cat([flat_of_class[classes], torch.tensor([-1])])
    return tuple(groups), places, {r: n for r, n in frozen.items() if n}


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
    parameters, and weights of layers, which may be buffers.

    The counts are hashed with random 64-bit factors, so that the cost is one pass over all axes.
    """
    names = dict.fromkeys((*parameters, *tracer.layers))
    lines = [ids for name in names for ids in tracer.axes.get(name, {}).values()]
    marks = np.zeros(int(classes.max()) + 1, dtype=np.uint64)
    factor = np.random.default_rng(0).integers(1, 2**63, len(lines), dtype=np.uint64)
    lengths = torch.tensor([len(ids) for ids in lines], dtype=torch.int64)
    line = torch.arange(len(lines)).repeat_interleave(lengths)
    ids = torch.cat([*lines, torch.zeros(0, dtype=torch.int64)])
    there = ids >= 0
    keys = line[there] * len(marks) + classes[ids[there]]
    found, counts = np.unique(keys.numpy(), return_counts=True)
    at = np.divmod(found, len(marks))
    np.add.at(marks, at[1], counts.astype(np.uint64) * factor[at[0]])
    return marks


def members_of(
    producers: list[Layer], classes: Tensor, ordered: Tensor, labels: Tensor
) -> dict[int, tuple[str, ...]]:
    """The layers that make the channels of each group, in the order of the network."""
    label_of_class = torch.full((int(classes.max()) + 1,), -1)
    label_of_class[ordered] = labels
    members: dict[int, dict[str, None]] = {}
    for layer in producers:
        for label in label_of_class[classes[layer.out_channels]].unique().tolist():
            members.setdefault(label, {})[layer.name] = None
    return {label: tuple(names) for label, names in members.items()}
