"""Checkpoints: written atomically, checked when read."""

import hashlib
import io
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dsa_core.errors import TrainingError, differences
from dsa_core.files import EPOCHS, atomic_file, write_atomically
from dsa_core.training.evaluate import state_tensors
from dsa_core.training.processes import process_group, wait

FORMAT = 1
SEAL = hashlib.sha256().digest_size  # bytes at the end of a file: SHA-256 of the rest


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint so that a crash at any moment leaves the old file or the new one.

    Args:
        path: the file; its folder is created.
        state: tensors, numbers, strings, and lists and dicts of them. Its entry "fingerprint", a
            dict of strings, identifies the run.

    If several processes train together, the main process writes, and the others wait for it.
    """
    if process_group().is_main:
        with atomic_file(path) as file:
            content = io.BytesIO()
            torch.save({"format": FORMAT, **state}, content)
            file.write(content.getbuffer())
            file.write(hashlib.sha256(content.getbuffer()).digest())
    wait()


def save_progress(path: Path, *, done: int, epochs: int, seconds: float) -> None:
    """Write beside a checkpoint how many epochs are done, and in how many seconds.

    The file is named as the checkpoint, and ends in `EPOCHS`.
    """
    if process_group().is_main:
        text = json.dumps({"done": done, "epochs": epochs, "seconds": round(seconds, 1)})
        write_atomically(path.with_suffix(EPOCHS), text + "\n")


def load_checkpoint(path: Path, fingerprint: Mapping[str, str]) -> dict[str, Any]:
    """Read a checkpoint onto the CPU and check that it is intact and belongs to this run.

    The checksum at the end of the file is compared first (torch's own do not cover the table of
    contents); it is read with `weights_only=True`, so that it cannot run code.

    Args:
        path: the file.
        fingerprint: of this run, compared entry by entry.

    Returns:
        The state given to `save_checkpoint`.

    Raises:
        TrainingError: the file is missing or damaged, or belongs to a different run; the message
            names the differences.
    """
    state = _read(path)
    saved = state.get("fingerprint")
    if state.get("format") != FORMAT or not isinstance(saved, dict):
        raise TrainingError(
            f"{path} is not a checkpoint of format {FORMAT}: delete it to start over"
        )
    if wrong := differences(saved, fingerprint):
        raise TrainingError(
            f"checkpoint {path} belongs to a different run: {wrong}. Go back to those settings, "
            "give this run another path, or delete the checkpoint to start over"
        )
    return state


def shapes_fingerprint(model: nn.Module) -> str:
    """Describe a model by a checksum of names, shapes and types of its state, not of its values."""
    state = state_tensors(model)
    text = repr([(k, tuple(v.shape), str(v.dtype)) for k, v in state.items()])
    return f"{len(state)} tensors, {zlib.crc32(text.encode()):08x}"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
        if hashlib.sha256(memoryview(content)[:-SEAL]).digest() != content[-SEAL:]:
            raise ValueError("its checksum is wrong or missing")
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise TrainingError(f"there is no checkpoint {path}") from error
    except Exception as error:  # a forged file can make torch.load raise anything
        raise TrainingError(
            f"checkpoint {path} is damaged, of an older version, or holds more than plain data "
            f"({error}): delete it to start over"
        ) from error
    if not isinstance(state, dict):
        raise TrainingError(f"{path} holds a {type(state).__name__}, not a checkpoint")
    return state
