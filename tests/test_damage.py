"""Files damaged byte by byte: refused by name, or read as they were; no raw error, nothing between.

Records, calibrations and weights of a user's have no checksum: an edited number in them can only be
checked by its range.
"""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems_runs import fresh, save_pruned, save_sparse8, some_record
from safetensors.torch import save_file

from dsa_core.errors import ConfigError, SurgeryError, TrainingError
from dsa_core.lab.models.weights import load_weights
from dsa_core.lab.record_files import FILE, read_record, write_record
from dsa_core.lab.runs.dense import read_dense
from dsa_core.surgery import load
from dsa_core.surgery.sparse import load_sparse
from dsa_core.training import load_checkpoint, save_checkpoint

State = dict[str, Any]


def checkpoint(folder: Path) -> None:
    state = {"weights": torch.arange(9.0), "momentum": [torch.ones(3)], "epoch": 3}
    save_checkpoint(folder / "run.pt", {"fingerprint": {}, "state": state})


def dense(folder: Path) -> None:
    pickled_and_not(folder)
    digest = sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    facts = {"score": 0.9, "seconds": 1.0, "epochs": 2, "sha256": digest}
    (folder / "dense.json").write_text(json.dumps(facts))
    (folder / "model.pt").unlink()


def pickled_and_not(folder: Path) -> None:
    torch.save(fresh().state_dict(), folder / "model.pt")
    save_file(fresh().state_dict(), folder / "model.safetensors")


def read_both(folder: Path) -> State:
    for name in ("model.pt", "model.safetensors"):
        load_weights(model := fresh(1), folder / name)
    return model.state_dict()


def read_dense_state(folder: Path) -> State:
    read_dense(model := fresh(1), folder)
    return model.state_dict()


class Kind(NamedTuple):
    """How files come about and are read; `sealed`: what is read is what was written."""

    write: Callable[[Path], Any]
    read: Callable[[Path], State]
    error: type[Exception]
    sealed: bool


KINDS = {
    "pruned": Kind(save_pruned, lambda f: load(f).state_dict(), SurgeryError, True),
    "sparse": Kind(save_sparse8, lambda f: load_sparse(f).state_dict(), SurgeryError, True),
    "checkpoint": Kind(
        checkpoint, lambda f: load_checkpoint(f / "run.pt", {})["state"], TrainingError, True
    ),
    "dense": Kind(dense, read_dense_state, ConfigError, True),
    "weights": Kind(pickled_and_not, read_both, ConfigError, False),
    "record": Kind(
        lambda f: write_record(f, some_record()), lambda f: dict(read_record(f / FILE)),
        ConfigError, False,
    ),
}  # fmt: skip
DAMAGE: dict[str, Callable[[bytes, int, bytes], bytes]] = {
    "a bit": lambda raw, at, some: raw[:at] + bytes([raw[at] ^ 1 << some[0] % 8]) + raw[at + 1 :],
    "over": lambda raw, at, some: raw[:at] + some + raw[at + len(some) :],
    "in": lambda raw, at, some: raw[:at] + some + raw[at:],
    "out": lambda raw, at, some: raw[:at] + raw[at + len(some) :],
    "short": lambda raw, at, some: raw[:at],
}


@pytest.fixture(scope="module", params=KINDS)
def case(request, tmp_path_factory) -> tuple[Path, Kind, dict[str, bytes], State]:
    folder, kind = tmp_path_factory.mktemp(request.param), KINDS[request.param]
    kind.write(folder)
    whole = {p.name: p.read_bytes() for p in sorted(folder.iterdir())}
    return folder, kind, whole, dict(kind.read(folder))


@given(data=st.data())
def test_a_damaged_file_is_refused_or_read_as_it_was(case, data):
    folder, kind, whole, wanted = case
    name = data.draw(st.sampled_from(sorted(whole)))
    at = data.draw(st.integers(0, len(whole[name]) - 1))
    some = data.draw(st.binary(min_size=1, max_size=9))
    spoilt = DAMAGE[data.draw(st.sampled_from(sorted(DAMAGE)))](whole[name], at, some)
    (folder / name).write_bytes(spoilt)
    try:
        found, told = dict(kind.read(folder)), str(folder)
    except kind.error as error:
        found, told = wanted, str(error)
    finally:
        (folder / name).write_bytes(whole[name])
    assert str(folder) in told
    if kind.sealed:
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_a_missing_file_is_named(case):
    folder, kind, whole, _ = case
    for name, content in whole.items():
        (folder / name).unlink()
        with pytest.raises(kind.error, match=str(folder)):
            kind.read(folder)
        (folder / name).write_bytes(content)
