"""Channel ids: what flows through the network in place of activations.

Every output channel of every convolution and linear layer gets an integer id of its own. An
activation of shape (N, C, H, W) is then a tensor of ids of that shape, held compactly: size 1 along
every axis on which the id does not change. `NO_CHANNEL` marks positions that hold no channel, such
as zero padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

NO_CHANNEL = -1


@dataclass(eq=False)
class Ids:
    """The channel ids of one tensor of the network.

    Attributes:
        base: ids, int64, as many axes as `shape`; size 1 on an axis means the same id all along it.
        shape: the shape of the tensor itself.
    """

    base: Tensor
    shape: tuple[int, ...]

    @property
    def full(self) -> Tensor:
        """The ids at every position, shape `shape`, without copying."""
        return self.base.expand(self.shape)

    def lined_up(self, rank: int) -> Tensor:
        """The ids with axes of size one in front, so that there are as many axes as `rank`."""
        return self.base.reshape((1,) * (rank - self.base.ndim) + tuple(self.base.shape))

    @property
    def empty(self) -> bool:
        """Whether no position holds a channel."""
        return bool((self.base.numpy() == NO_CHANNEL).all())

    def varies(self, axis: int) -> bool:
        """Whether channels lie along an axis (negative: from the end), so that the id changes."""
        return self.base.shape[axis] > 1

    @staticmethod
    def of(full: Tensor) -> "Ids":
        """Compact a tensor of ids: drop every axis along which they are constant."""
        base = full
        for axis in range(full.ndim):
            if base.shape[axis] <= 1:
                continue
            first = base.narrow(axis, 0, 1)
            if base.stride(axis) == 0 or bool((base == first).all()):
                base = first
        return Ids(base, tuple(full.shape))

    @staticmethod
    def constant(shape: Sequence[int], value: int = NO_CHANNEL) -> "Ids":
        """One id at every position."""
        return Ids(torch.full((1,) * len(shape), value), tuple(shape))

    @staticmethod
    def along(ids: Tensor, axis: int, shape: Sequence[int]) -> "Ids":
        """Ids (n,) laid along one axis of a tensor of `shape`."""
        view = [1] * len(shape)
        view[axis] = len(ids)
        return Ids(ids.reshape(view), tuple(shape))


@dataclass
class IdBook:
    """Hands out ids, and remembers which were united and which were frozen, and why.

    Uniting only writes the pair down; the classes come from one pass over all pairs at the end
    (connected components), so that tracing stays linear in the size of the network.
    """

    count: int = 0
    pairs: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    frozen: list[tuple[str, Tensor]] = field(default_factory=list)
    known: tuple[tuple[int, int], Tensor] = field(default=((0, 0), torch.zeros(0)), repr=False)

    def fresh(self, n: int) -> Tensor:
        """Hand out n new ids, shape (n,)."""
        ids = torch.arange(self.count, self.count + n)
        self.count += n
        return ids

    def unite(self, a: Tensor, b: Tensor) -> Tensor:
        """Unite the ids that meet at the same position.

        Args:
            a, b: ids of shapes that broadcast; `NO_CHANNEL` meets without effect.

        Returns:
            One id for each position of the broadcast shape.
        """
        if a is b:
            return a
        left, right = np.broadcast_arrays(a.numpy(), b.numpy())
        met = (left != NO_CHANNEL) & (right != NO_CHANNEL) & (left != right)
        if met.any():
            self.pairs.append((torch.from_numpy(left[met]), torch.from_numpy(right[met])))
        return torch.from_numpy(np.where(left == NO_CHANNEL, right, left))

    def freeze(self, ids: Tensor, reason: str) -> None:
        """Keep these ids for good; the reason goes into the report."""
        ids = ids[ids != NO_CHANNEL].unique()
        if len(ids):
            self.frozen.append((reason.removesuffix(" ()"), ids))  # made by no module

    def tie(self, rows: Tensor) -> Tensor:
        """Unite the rows of ids (r, n) position by position; returns one id for each, (n,)."""
        if len(rows) == 1:
            return rows[0]
        line = rows.amax(0)  # any id that is there; NO_CHANNEL only if all are
        self.unite(line, rows)
        return line

    def fold(self, ids: Ids, axis: int) -> Tensor:
        """Unite over all axes but one; returns the ids along that axis, shape (shape[axis],)."""
        lines = ids.base.movedim(axis, 0).reshape(ids.base.shape[axis], -1)
        return self.tie(lines.T).expand(ids.shape[axis])

    def classes(self) -> Tensor:
        """The class of every id under all unions, int64, shape (count,)."""
        state = (self.count, len(self.pairs))
        if state != self.known[0]:
            self.known = state, self._classes()
        return self.known[1]

    def _classes(self) -> Tensor:
        from scipy.sparse import coo_array  # half a second, and only tracing needs it
        from scipy.sparse.csgraph import connected_components

        if not self.pairs:
            return torch.arange(self.count)
        a = torch.cat([p for p, _ in self.pairs]).numpy()
        b = torch.cat([q for _, q in self.pairs]).numpy()
        links = coo_array((torch.ones(len(a)).numpy(), (a, b)), shape=(self.count, self.count))
        return torch.from_numpy(connected_components(links, directed=False)[1]).long()
