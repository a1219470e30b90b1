"""Images before and after: label maps in the colours of their classes, and enlarged crops."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from dsa_core.errors import ConfigError
from dsa_core.lab.plots.style import blank_figure

VOID = 255
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
    (n,) = rows
    figure = blank_figure(1.6 * len(columns), 1.6 * n + 0.3)
    panels = figure.subplots(n, len(columns), squeeze=False)
    for (title, stack), column in zip(columns.items(), panels.T, strict=True):
        column[0].set_title(title, fontsize=9)
        for axes, image in zip(column, stack, strict=True):
            axes.imshow(
                painted(image).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest"
            )
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
    figure = blank_figure(1.9 * len(images), 1.9 * len(corners) + 0.3)
    panels = figure.subplots(len(corners), len(images), squeeze=False)
    for (title, image), column in zip(images.items(), panels.T, strict=True):
        column[0].set_title(title, fontsize=9)
        for axes, (row, left) in zip(column, corners, strict=True):
            crop = image[:, row : row + side, left : left + side].clamp(0, 1)
            axes.imshow(crop.permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set_axis_off()
    return figure
