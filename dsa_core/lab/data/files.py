"""Read the official files of CIFAR-10, CIFAR-100 and Fashion-MNIST."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsa_core.errors import DataError

Parts = tuple[Tensor, Tensor, Tensor, Tensor]  # train images, labels, test images, labels

OFFICIAL = {  # class of torchvision: name, and folder below the root
    "CIFAR10": ("CIFAR-10", "cifar-10-batches-py"),
    "CIFAR100": ("CIFAR-100", "cifar-100-python"),
    "FashionMNIST": ("Fashion-MNIST", "FashionMNIST/raw"),
}


def read_official(kind: str, root: Path, *, download: bool) -> Parts:
    """Read a dataset by torchvision, which compares CIFAR's pickles with their MD5 before it loads.

    Args:
        kind: a name in `OFFICIAL`.
        root: folder that holds the dataset's own.
        download: fetch first what is missing.

    Returns:
        Train images (N, C, H, W) uint8, train labels (N,) int64, test images, test labels.

    Raises:
        DataError: a file is missing or damaged, or the download failed.
    """
    from torchvision import datasets

    name, folder = OFFICIAL[kind]
    made = getattr(datasets, kind)
    try:
        parts = [made(str(root), train=train, download=download) for train in (True, False)]
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        raise DataError(
            f"{name} is not in {root / folder}, a file there is damaged, or it could not be "
            f"downloaded ({error}). Either put the official files there (remove damaged ones "
            "first), or name the folder that holds them in the environment variable DSA_DATA or as "
            "root=..., or download them with download=True (command line: --download)"
        ) from error
    return (*tensors_of(parts[0]), *tensors_of(parts[1]))


def tensors_of(part: Any) -> tuple[Tensor, Tensor]:
    """Images and labels of one part, as torchvision holds it: colours last, or none."""
    images = torch.as_tensor(part.data)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return images.contiguous(), torch.as_tensor(part.targets).long()
