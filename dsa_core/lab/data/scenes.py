"""Scenes composed of handwritten digits, with a label for every pixel: segmentation offline."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from dsa_core.lab.data.segment_task import VOID
from dsa_core.training.seeds import generator

SIDE = 32  # pixels
SIZES = (10, 13, 16)  # sides a digit may have, in pixels
LARGEST = max(SIZES)
MOST = 4  # digits in a scene; at least 2
INK, PAPER = 0.5, 0.2  # a pixel with more ink is the digit's, with less the background's
NOISE = 0.06  # deviation, of white = 1
SEED = 0
COUNTS = {"train": 1200, "test": 300}  # scenes


def compose(part: str, digits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Compose the scenes of one part, always the same.

    2 to 4 digits of several sizes lie on a slope of grey with noise; a later one covers an earlier
    one. A pixel is labelled 1 + digit where its ink (of 1) is above 0.5, 0 for background where it
    is below 0.2, and 255 between: at an edge neither answer is right.

    Args:
        part: "train" or "test"; names the random numbers.
        digits: to choose from, uint8, shape (D, 1, 8, 8).
        labels: 0 .. 9, shape (D,).

    Returns:
        Scenes uint8 (N, 1, 32, 32), labels uint8 (N, 32, 32).
    """
    draw = generator(SEED, "digit scenes", part)
    n = COUNTS[part]
    inks = torch.stack([inked(digits, side) for side in SIZES])
    scenes, maps = paper(n, draw), torch.zeros(n, SIDE, SIDE, dtype=torch.int64)
    counts = torch.randint(2, MOST + 1, (n,), generator=draw)
    for place in range(MOST):
        ink, names = placed(inks, labels, n, draw)
        ink[counts <= place] = 0  # this scene has no further digit
        bright = 0.7 + 0.3 * torch.rand(n, 1, 1, generator=draw)
        scenes = scenes * (1 - ink) + bright * ink
        maps = torch.where(ink > PAPER, VOID, maps)
        maps = torch.where(ink > INK, names[:, None, None] + 1, maps)
    scenes = scenes + NOISE * torch.randn(scenes.shape, generator=draw)
    return scenes.clamp(0, 1).mul(255).round().to(torch.uint8).unsqueeze(1), maps.to(torch.uint8)


def inked(digits: Tensor, side: int) -> Tensor:
    """The ink of the digits in [0, 1], at another size, on a square of LARGEST, (D, L, L)."""
    ink = interpolate(digits.float() / 255, size=(side, side), mode="bicubic", align_corners=False)
    return pad(ink.clamp(0, 1).squeeze(1), (0, LARGEST - side) * 2)


def paper(n: int, draw: torch.Generator) -> Tensor:
    """Backgrounds: a slope of grey between two shades in [0, 0.4], shape (n, 32, 32)."""
    shades = 0.4 * torch.rand(n, 2, 1, 1, generator=draw)
    angle = 2 * torch.pi * torch.rand(n, 1, 1, generator=draw)
    place = torch.linspace(-0.5, 0.5, SIDE)
    slope = angle.cos() * place[None, :, None] + angle.sin() * place[None, None, :]  # |.| < 0.71
    share = 0.5 + slope / 2**0.5
    return shades[:, 0] * share + shades[:, 1] * (1 - share)


def placed(inks: Tensor, labels: Tensor, n: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw a digit, its size and its place for each of n scenes.

    Args:
        inks: by size and digit, shape (S, D, L, L), each in the upper left corner.
        labels: of the digits, shape (D,).
        n: scenes.
        draw: gives n sizes, n digits, n rows and n columns.

    Returns:
        Ink, shape (n, 32, 32), with every digit wholly inside; its label, shape (n,).
    """
    size = torch.randint(len(SIZES), (n,), generator=draw)
    digit = torch.randint(len(labels), (n,), generator=draw)
    room = SIDE + 1 - torch.tensor(SIZES)[size]
    corner = (torch.rand(2, n, generator=draw) * room).long()  # 0 .. SIDE - side
    at = torch.arange(SIDE) - corner[:, :, None]  # (2, n, SIDE): where each line is in the ink
    inside = (at >= 0) & (at < LARGEST)
    rows, columns = at.clamp(0, LARGEST - 1)
    ink = inks[size[:, None, None], digit[:, None, None], rows[:, :, None], columns[:, None, :]]
    return ink * (inside[0][:, :, None] & inside[1][:, None, :]), labels[digit]
