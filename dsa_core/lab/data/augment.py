"""Random changes of a whole batch of images at once, on uint8, before normalisation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from dsa_core.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Augmentation:
    """What may happen to an image.

    Attributes:
        padding: black pixels put on each side before a crop back to size; 0 = no crop.
        flip: whether half of the images are mirrored left to right.
        turn: whether half of the images, which must be square, are transposed.
    """

    padding: int
    flip: bool
    turn: bool = False


AUGMENTATIONS = {
    "none": Augmentation(0, False),
    "crop_flip": Augmentation(4, True),  # DSA's, as everyone's on CIFAR
    "shift": Augmentation(1, False),  # digits: at most one pixel, and a mirrored 3 is not a 3
    "flip_turn": Augmentation(0, True, True),  # patches of images that are to be enlarged
}


def augmentation(name: str, known: Mapping[str, T], what: str) -> T:
    """Look an augmentation of `what` up by name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in known:
        raise ConfigError(f"augment of {what} must be one of {', '.join(known)}, got {name!r}")
    return known[name]


def augment_batch(images: Tensor, how: Augmentation, draw: torch.Generator) -> Tensor:
    """Pad, crop and flip each image by its own random numbers.

    Args:
        images: shape (N, C, H, W), uint8 as a rule.
        how: the augmentation.
        draw: a CPU generator. The numbers drawn are N rows, N columns, N flips, N turns, in this
            order, as far as they are needed.

    Returns:
        New tensor of the same shape and type.
    """
    n = images.shape[0]
    if how.padding:
        rows = torch.randint(0, 2 * how.padding + 1, (n,), generator=draw)
        columns = torch.randint(0, 2 * how.padding + 1, (n,), generator=draw)
        images = crop(images, how.padding, rows=rows, columns=columns)
    if how.flip:
        images = for_half(images, images.flip(3), draw)
    if how.turn:
        images = for_half(images, images.mT, draw)
    return images


def for_half(images: Tensor, changed: Tensor, draw: torch.Generator) -> Tensor:
    """Take half of the images, drawn at random, from those that are changed."""
    chosen = torch.rand(len(images), generator=draw) < 0.5
    return torch.where(chosen.to(images.device).view(-1, 1, 1, 1), changed, images)


def crop(images: Tensor, padding: int, *, rows: Tensor, columns: Tensor) -> Tensor:
    """Pad with zeros and cut from image n the window that starts at (rows[n], columns[n]).

    All windows are a strided view (no copy); one indexing operation then picks one window a
    image.

    Args:
        images: shape (N, C, H, W).
        padding: pixels on each side.
        rows: first row of each window, shape (N,), in [0, 2 padding].
        columns: first column of each window, same shape and range.

    Returns:
        Shape (N, C, H, W).
    """
    n, _, height, width = images.shape
    padded = pad(images, (padding,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (N, C, 2P+1, 2P+1, H, W)
    device = images.device
    image = torch.arange(n, device=device)
    return windows[image, :, rows.to(device), columns.to(device)]
