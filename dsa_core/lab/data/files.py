"""Read the official files of CIFAR-10, CIFAR-100 and Fashion-MNIST."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsa_core.errors import DataError

Parts = tuple[Tensor, Tensor, Tensor, Tensor]  # train images, labels, test images, labels

CIFAR_FILES: dict[int, tuple[str, list[str], list[str], str]] = {
    10: ("cifar-10-batches-py", [f"data_batch_{i}" for i in range(1, 6)], ["test_batch"], "labels"),
    100: ("cifar-100-python", ["train"], ["test"], "fine_labels"),
}

# The only names that a pickle of plain arrays needs. Anything else in such a file could run code.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class ArrayUnpickler(pickle.Unpickler):
    """Unpickle arrays, numbers, strings, lists and dicts, and refuse everything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Look up one of the few allowed names."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which plain data never do")
        return super().find_class(module, name)


def missing(what: str, folder: Path, reason: str) -> DataError:
    """Make the error that says where data belong and how to get them."""
    return DataError(
        f"{what} is not in {folder} ({reason}). Either put the official files there, or name "
        "the folder that holds them in the environment variable DSA_DATA or as root=..., or "
        "download them with download=True (command line: --download)"
    )


def read_cifar(root: Path, *, classes: int, download: bool) -> Parts:
    """Read CIFAR-10 or CIFAR-100 from its official Python files in `root`.

    Args:
        root: folder that holds `cifar-10-batches-py` or `cifar-100-python`.
        classes: 10 or 100.
        download: fetch the archive first where it is missing.

    Returns:
        Train images (N, 3, 32, 32) uint8, train labels (N,) int64, test images, test labels.

    Raises:
        DataError: a file is missing or damaged.
    """
    folder_name, train, test, key = CIFAR_FILES[classes]
    folder = root / folder_name
    what = f"CIFAR-{classes}"
    absent = [name for name in train + test if not (folder / name).is_file()]
    if absent and download:
        from torchvision import datasets

        _download(datasets.CIFAR10 if classes == 10 else datasets.CIFAR100, root, what, folder)
    elif absent:
        raise missing(what, folder, f"no file {absent[0]}")
    pairs = [_cifar_part([folder / name for name in part], key, classes) for part in (train, test)]
    return (*pairs[0], *pairs[1])


def read_fashion_mnist(root: Path, *, download: bool) -> Parts:
    """Read Fashion-MNIST from its official files in `root`/FashionMNIST/raw, see `read_cifar`."""
    from torchvision.datasets import FashionMNIST

    folder = root / "FashionMNIST" / "raw"
    if download:
        _download(FashionMNIST, root, "Fashion-MNIST", folder)
    pairs: list[tuple[Tensor, Tensor]] = []
    for train in (True, False):
        try:
            data = FashionMNIST(str(root), train=train)
        except RuntimeError as error:
            raise missing("Fashion-MNIST", folder, "its idx files are not there") from error
        except (ValueError, AssertionError, OSError) as error:
            raise DataError(f"a file in {folder} is damaged ({error}): fetch it again") from error
        pairs.append((data.data.unsqueeze(1), data.targets.long()))
    return (*pairs[0], *pairs[1])


def _download(dataset: Any, root: Path, what: str, folder: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        dataset(str(root), download=True)
    except (OSError, RuntimeError) as error:  # no network is a URLError, an OSError
        raise missing(what, folder, f"and the download failed: {error}") from error


def _cifar_part(paths: list[Path], key: str, classes: int) -> tuple[Tensor, Tensor]:
    parts = [_cifar_file(path, key, classes) for path in paths]
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def _cifar_file(path: Path, key: str, classes: int) -> tuple[Tensor, Tensor]:
    """Read a pickled dict with `data`, uint8 (N, 3072) in the order channel, row, column."""
    try:
        content = ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        data, labels = np.asarray(content["data"]), torch.tensor(content[key], dtype=torch.int64)
    except Exception as error:  # a broken pickle can raise almost anything
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise _damaged(path, f"wanted uint8 of shape (N, 3072), got {data.dtype} {data.shape}")
    if len(labels) != len(data) or not bool(((labels >= 0) & (labels < classes)).all()):
        raise _damaged(path, f"its {len(labels)} labels do not fit {len(data)} images")
    return torch.from_numpy(data.copy()).view(-1, 3, 32, 32), labels


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path} is not an official CIFAR file, or is damaged ({reason}): fetch it again"
    )
