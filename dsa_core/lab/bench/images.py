"""Made-up images in the shape of CIFAR-10: what they show does not change how long they take."""

import torch
from torch import Tensor

from dsa_core.lab.data.batches import Batches

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10


def made_up(n: int) -> tuple[Tensor, Tensor]:
    """Random images, uint8 of shape (n, 3, 32, 32), and classes of 10."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n, 3, 32, 32), generator=draw, dtype=torch.uint8)
    return images, torch.randint(10, (n,), generator=draw)


def normalised(
    made: tuple[Tensor, Tensor],
    *,
    batch_size: int,
    augment: str = "none",
    device: torch.device | str = "cpu",
) -> Batches:
    """Our batches of images, with the mean and spread of CIFAR-10."""
    return Batches(
        *made,
        batch_size=batch_size,
        mean=MEAN,
        std=STD,
        augment=augment,
        drop_last=True,
        device=device,
    )
