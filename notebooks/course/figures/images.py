"""Images before and after: label maps in the colours of their classes, and enlarged crops."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from dsa_core.errors import ConfigError
from dsa_core.lab.data import VOID
from dsa_core.lab.plots.style import blank_figure

# twelve that differ in lightness too, the first for the background; after Okabe and Ito
CLASSES = (
    "#1A1A1A", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9",
    "#D55E00", "#F0E442", "#8C6BB1", "#A6D854", "#B15928", "#BBBBBB",
)  # fmt: skip


def maps_figure(columns: Mapping[str, Tensor]) -> Figure:
    """Images and label maps side by side, a row for each example.

    Args:
        columns: title -> grey images in [0, 1] (float), or labels (integers, 255 = none), shape
            (N, H, W) each.

    Raises:
        ConfigError: the columns hold different numbers of examples, or a label has no colour.
    """
    rows = {len(stack) for stack in columns.values()}
    if len(rows) != 1:
        raise ConfigError(f"every column needs as many images, got {sorted(rows)}")
    return grid({title: [painted(i) for i in stack] for title, stack in columns.items()}, 1.6)


def grid(columns: Mapping[str, Sequence[Tensor]], side: float) -> Figure:
    """Images in columns under their titles; `side` of each in inches."""
    n = len(next(iter(columns.values())))
    figure = blank_figure(side * len(columns), side * n + 0.3)
    panels = figure.subplots(n, len(columns), squeeze=False)
    for (title, images), column in zip(columns.items(), panels.T, strict=True):
        column[0].set_title(title, fontsize=9)
        for axes, image in zip(column, images, strict=True):
            axes.imshow(image.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_axis_off()
    return figure


def painted(image: Tensor) -> Tensor:
    """A grey image as it is, (H, W); labels as colours in [0, 1], (H, W, 4), none as white."""
    if image.is_floating_point():
        return image
    known = image[image != VOID]
    if len(known) and int(known.max()) >= len(CLASSES):
        raise ConfigError(f"there are colours for {len(CLASSES)} classes, a label is {known.max()}")
    colours = torch.tensor(ListedColormap(CLASSES)(range(len(CLASSES))))
    white = torch.ones(256 - len(CLASSES), 4)
    return torch.cat([colours.float(), white])[image.long()]


def crops_figure(
    images: Mapping[str, Tensor], corners: Sequence[tuple[int, int]], *, side: int
) -> Figure:
    """The same crops of several versions of one image, a row for each crop.

    Args:
        images: title -> colours about in [0, 1], shape (3, H, W) each.
        corners: (row, column) of the upper left corner of each crop.
        side: of a crop, in pixels.

    Raises:
        ConfigError: the versions differ in size, or a crop reaches beyond.
    """
    shapes = {tuple(p.shape) for p in images.values()}
    height, width = next(iter(shapes))[1:]
    if len(shapes) != 1 or any(r + side > height or c + side > width for r, c in corners):
        raise ConfigError(f"crops of {side} at {list(corners)} do not fit in {sorted(shapes)}")
    return grid(
        {
            title: [crop(image, *corner, side) for corner in corners]
            for title, image in images.items()
        },
        1.9,
    )


def crop(image: Tensor, row: int, column: int, side: int) -> Tensor:
    """A square of an image (3, H, W), colours last, (side, side, 3), in [0, 1]."""
    return image[:, row : row + side, column : column + side].clamp(0, 1).permute(1, 2, 0)
