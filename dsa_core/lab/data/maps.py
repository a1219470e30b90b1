"""Batches of images with a label for every pixel: what moves the image moves the labels."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from dsa_core.lab.data.batches import Batch, Batches
from dsa_core.lab.data.segment_task import VOID


@dataclass(frozen=True)
class MapAugmentation:
    """What may happen to an image and its labels together.

    Attributes:
        zoom: smallest and largest factor of size; drawn so that its logarithm is uniform. What is
            larger is cropped at a random place, what is smaller put at a random place.
        shift: moved by up to so many pixels, whole ones.
        flip: whether half of the images are mirrored left to right.
    """

    zoom: tuple[float, float] = (1.0, 1.0)
    shift: int = 0
    flip: bool = False


MAP_AUGMENTATIONS = {
    "none": MapAugmentation(),
    "zoom_crop_flip": MapAugmentation(zoom=(0.75, 1.5), flip=True),
    "shift": MapAugmentation(shift=4),  # digits: a mirrored 3 is not a 3
}


class MapBatches(Batches):
    """`Batches` whose labels are maps, uint8 of shape (N, H, W); yielded as int64."""

    what = "label maps"
    known = MAP_AUGMENTATIONS

    def pair(self, images: Tensor, labels: Tensor, draw: torch.Generator) -> Batch:
        """Augment images and labels alike."""
        images, labels = augment_maps(images, labels, self.how, draw)
        return images, labels.long()


def augment_maps(
    images: Tensor, labels: Tensor, how: MapAugmentation, draw: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Zoom, crop, shift and flip each image and its labels by its own random numbers.

    With zoom s the pixel at u in [-1, 1] comes from  f u / s + t,  f = -1 if mirrored, else 1,
    where t is uniform in +-|1 - 1/s|: the window lies wholly inside the image, or the image
    wholly inside the window. Colours are interpolated bilinearly, labels taken from the nearest
    pixel; from outside come black and the label 255.

    Args:
        images: shape (N, C, H, W), uint8.
        labels: shape (N, H, W), uint8.
        how: the augmentation; with none that moves anything both are returned as they are.
        draw: a CPU generator. Drawn are N zooms, 2 N places, 2 N shifts, N flips, in this order.

    Returns:
        Images in float32 (in 0 .. 255), labels in uint8.
    """
    if how == MapAugmentation():
        return images, labels
    places = places_from(len(images), images.shape[-2:], how, draw).to(images.device)
    grid = affine_grid(places, [len(images), 1, *images.shape[-2:]], align_corners=False)
    moved = grid_sample(images.float(), grid, mode="bilinear", align_corners=False)
    # shifted by one, so that the zero from outside can be told from label 0
    marked = labels.float().unsqueeze(1) + 1
    found = grid_sample(marked, grid, mode="nearest", align_corners=False).squeeze(1) - 1
    return moved, torch.where(found < 0, VOID, found).to(torch.uint8)


def places_from(n: int, shape: torch.Size, how: MapAugmentation, draw: torch.Generator) -> Tensor:
    """Draw where each pixel comes from: affine maps, shape (n, 2, 3), on (column, row, 1)."""
    low, high = torch.tensor(how.zoom).log()
    zoom = (low + (high - low) * torch.rand(n, generator=draw)).exp()
    room = (1 - 1 / zoom).abs()
    offset = (2 * torch.rand(n, 2, generator=draw) - 1) * room[:, None]
    steps = torch.randint(-how.shift, how.shift + 1, (n, 2), generator=draw)
    offset += 2 * steps / torch.tensor([shape[1], shape[0]])  # an image is 2 wide
    mirrored = torch.rand(n, generator=draw) < (0.5 if how.flip else 0.0)
    places = torch.zeros(n, 2, 3)
    places[:, 0, 0] = torch.where(mirrored, -1.0, 1.0) / zoom
    places[:, 1, 1] = 1 / zoom
    places[:, :, 2] = offset
    return places
