"""Where segments lie in a flat vector, worked out once per `offsets` and kept (CPU, NumPy)."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

LARGEST = (
    2**16
)  # scores: beyond it the sums, not the calls, take the time; and a layout has its size
LONGEST = 4096  # channels of a segment
MAX_PADDING = 16  # the rows may hold so many times n

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


class Layout(NamedTuple):
    """What follows from the offsets alone: G segments, n scores, N the longest segment.

    The "ended" vector is the flat one with one more entry after each segment: its end mark. With
    it no part of a segment is ever empty, which `np.add.reduceat` could not sum.

    Attributes:
        sizes: channels per segment, shape (G,), float64.
        starts: first position of each segment, shape (G,).
        ids: segment of each position, shape (n,).
        rows: positions of each segment, then n, shape (G, N + 1).
        row_starts: where each row starts once the rows are flattened, shape (G,).
        ended: the entries of the flattened rows that make the ended vector, shape (n + G,).
        ended_starts: first entry of each segment in it, shape (G,).
        ended_ids: segment of each entry, shape (n + G,).
        ended_rank: place of each entry within its segment, shape (n + G,), float64.
    """

    sizes: Floats
    starts: Indices
    ids: Indices
    rows: Indices
    row_starts: Indices
    ended: Indices
    ended_starts: Indices
    ended_ids: Indices
    ended_rank: Floats


def layout_of(offsets: Tensor) -> Layout | None:
    """The layout of these offsets, shape (G + 1,), int64.

    Keyed by the content: offsets that are changed in place are other offsets.

    Returns:
        None if they do not rise strictly from 0, or if the segments are too long, many or uneven
        for the rows to be worth their padding.
    """
    if len(offsets) > LARGEST:
        return None
    return _layout(offsets.detach().numpy().tobytes())


@lru_cache(maxsize=32)
def _layout(content: bytes) -> Layout | None:
    edges = np.frombuffer(content, dtype=np.int64).astype(np.intp)
    sizes = np.diff(edges)
    if len(sizes) == 0 or edges[0] != 0 or sizes.min() <= 0:
        return None
    n, n_segments, width = int(edges[-1]), len(sizes), int(sizes.max()) + 1
    if n > LARGEST or width > LONGEST or n_segments * width > max(LONGEST, MAX_PADDING * n):
        return None
    segments = np.arange(n_segments)
    ids, ended_ids = np.repeat(segments, sizes), np.repeat(segments, sizes + 1)
    ended_starts = edges[:-1] + segments
    ended_rank = np.arange(n + n_segments) - ended_starts[ended_ids]
    rows = np.full((n_segments, width), n)
    rows[ids, np.arange(n) - edges[ids]] = np.arange(n)
    layout = Layout(
        sizes=sizes.astype(np.float64),
        starts=edges[:-1].copy(),
        ids=ids,
        rows=rows,
        row_starts=segments * width,
        ended=ended_ids * width + ended_rank,
        ended_starts=ended_starts,
        ended_ids=ended_ids,
        ended_rank=ended_rank.astype(np.float64),
    )
    for shared in layout:
        shared.flags.writeable = False
    return layout
