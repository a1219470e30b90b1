"""Load weights from a file without running code, and check every entry."""

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from dsa_core.errors import ConfigError

PREFIX = "module."  # what nn.DataParallel puts before every name
OPTIONAL = "num_batches_tracked"  # missing in files of old versions of torch


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits.

    Raises:
        ConfigError: there is no such file.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"weights {path} cannot be read: {error.strerror or error}") from error


def load_weights(model: nn.Module, path: Path) -> None:
    """Load the weights of a file into a model, in place; every entry has to fit.

    The file is .safetensors, or written by `torch.save`; the latter is read with
    `weights_only=True`, so that it cannot run code. A dict with an entry "state_dict" stands for
    that entry, and a prefix "module." of all names is removed. Values are converted to the model's
    number format and device. `num_batches_tracked` of a BatchNorm may be missing: it has no effect
    as long as the layer has a momentum.

    Args:
        model: unchanged if the file does not fit.
        path: the file.

    Raises:
        ConfigError: the file cannot be read; or an entry is missing, unknown, of another shape, or
            not finite (the first such is named).
    """
    found = stripped(read_tensors(path))
    wanted = model.state_dict()
    check_entries(wanted, found, path)
    model.load_state_dict(wanted | found)


def read_tensors(path: Path) -> dict[str, Any]:
    """Read the named entries of a file.

    Raises:
        ConfigError: it is missing, damaged, holds more than plain data, or is not a dict.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_safetensors(path.read_bytes()))
        with warnings.catch_warnings(action="ignore"):  # of old pickles, of sparse tensors
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(f"weights {path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged file can raise anything
        raise ConfigError(
            f"weights {path} are damaged, or hold more than plain tensors "
            f"({type(error).__name__}): wanted is a .safetensors file, or a state dict "
            "written by torch.save(model.state_dict(), path)"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise ConfigError(f"weights {path} hold a {type(content).__name__}, wanted is a state dict")
    return {str(name): value for name, value in content.items()}


def stripped(entries: dict[str, Any]) -> dict[str, Any]:
    """Remove "module." from the names, if all of them begin with it."""
    if not all(name.startswith(PREFIX) for name in entries):
        return entries
    return {name.removeprefix(PREFIX): value for name, value in entries.items()}


def check_entries(wanted: Mapping[str, Tensor], found: Mapping[str, Any], path: Path) -> None:
    """Compare the entries of a model with those of a file.

    Raises:
        ConfigError: names the first entry that does not fit.
    """
    missing = [name for name in wanted if name not in found and not name.endswith(OPTIONAL)]
    unexpected = [name for name in found if name not in wanted]
    if missing or unexpected:
        parts = [
            f"{len(names)} {word}, the first is {names[0]!r}"
            for names, word in ((missing, "missing"), (unexpected, "not of the model"))
            if names
        ]
        raise ConfigError(
            f"weights {path} are of another network: entries {'; '.join(parts)}. Name the network "
            "they were made with (and as many classes), or rename the entries of the file"
        )
    for name, value in found.items():
        check_entry(name, wanted[name], value, path)


def check_entry(name: str, wanted: Tensor, found: Any, path: Path) -> None:
    """Compare one entry: a tensor of the same shape and kind, and finite.

    Raises:
        ConfigError: it is not.
    """
    shape = tuple(wanted.shape)
    if not isinstance(found, Tensor):
        raise ConfigError(
            f"weights {path}: {name} is a {type(found).__name__}, wanted is a tensor of {shape}"
        )
    if found.shape != wanted.shape:
        raise ConfigError(
            f"weights {path}: {name} has the shape {tuple(found.shape)}, wanted is {shape}: "
            "it is of a network of other widths, or with another number of classes"
        )
    if why := unusable(wanted, found):
        raise ConfigError(
            f"weights {path}: {name} is {why}: save the plain float tensors of the network, "
            "torch.save(model.float().state_dict(), path)"
        )
    if not bool(torch.isfinite(found.to(wanted.dtype)).all()):
        raise ConfigError(f"weights {path}: {name} holds values that are not finite")


def unusable(wanted: Tensor, found: Tensor) -> str | None:
    """Why a tensor cannot be copied into another; None if it can."""
    if found.device.type == "meta":
        return "a meta tensor, which has no values"
    if found.layout != torch.strided or found.is_quantized or found.is_nested:
        return "sparse, quantized or nested"
    if found.is_complex() or found.is_floating_point() != wanted.is_floating_point():
        return f"{str(found.dtype).removeprefix('torch.')}, wanted is {wanted.dtype}"
    return None
