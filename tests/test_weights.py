"""Weights of one's own: read, refused by the first wrong entry, and the start of a run."""

import hashlib
import json
import pickle
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from problems_runs import TASK, digits, fresh, same, tiny_preset, tiny_run
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import nn

from dsa_core.errors import ConfigError
from dsa_core.lab.cli import main
from dsa_core.lab.models.weights import file_digest, load_weights
from dsa_core.lab.runs import configure, presets, run
from dsa_core.training import evaluate


def mine():
    return fresh(5)


def written(path: Path, content) -> Path:
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize("form", ["a.safetensors", "a.pt", "inner.pth", "module.pt", "both.th"])
def test_every_form_gives_the_same_network(form, tmp_path):
    state = mine().state_dict()
    if form in ("module.pt", "both.th"):
        state = {f"module.{k}": v for k, v in state.items()}
    content = {"state_dict": state, "epoch": 3} if form in ("inner.pth", "both.th") else state
    model = fresh(1)
    load_weights(model, written(tmp_path / form, content))
    same(model, mine())


def test_counters_may_be_missing_and_half_precision_is_converted(tmp_path):
    state = {k: v.half() for k, v in mine().state_dict().items() if "num_batches" not in k}
    model = fresh(1)
    load_weights(model, written(tmp_path / "a.safetensors", state))
    for name, value in model.state_dict().items():
        assert value.dtype == (torch.int64 if "num_batches" in name else torch.float32)
        if name in state:
            assert torch.equal(value, state[name].float())


def test_a_module_that_is_called_module(tmp_path):
    """Only a prefix that all names have is DataParallel's."""
    model, other = (
        nn.ModuleDict({"module": nn.Linear(2, 2), "b": nn.Linear(2, 2)}) for _ in range(2)
    )
    load_weights(other, written(tmp_path / "a.pt", model.state_dict()))
    same(model, other)


def bias(value):
    """The weights of a network, with another entry bn1.bias."""
    return {**fresh().state_dict(), "bn1.bias": value}


def without(*names, **more):
    """The weights of a network without these entries, and some more."""
    state = {k: v for k, v in fresh().state_dict().items() if k not in names}
    return state | {key.replace("__", "."): value for key, value in more.items()}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (without("bn1.weight", "linear.bias"), "2 missing, the first is 'bn1.weight'"),
        (
            without("linear.bias", fc__bias=torch.ones(1)),
            "1 missing, the first is 'linear.bias'; 1 not of the model, the first is 'fc.bias'",
        ),
        (bias(torch.ones(5)), r"bn1.bias has the shape \(5,\), wanted is \(16,\)"),
        (bias(torch.full((16,), float("nan"))), "bn1.bias holds values that are not"),
        (bias(torch.ones(16).double() * 1e300), "bn1.bias holds values that are not"),
        (bias(3), "bn1.bias is a int, wanted is a tensor"),
        (bias(torch.ones(16).to_sparse()), "bn1.bias is sparse"),
        (bias(torch.ones(16, device="meta")), "bn1.bias is a meta tensor"),
        (bias(torch.ones(16, dtype=torch.complex64)), "bn1.bias is complex64, wanted"),
        (bias(torch.ones(16, dtype=torch.int8)), "bn1.bias is int8, wanted"),
        (without(bn1__num_batches_tracked=torch.tensor(0.5)), "num_batches_tracked is float32"),
        ([1, 2], "hold a list, wanted is a state dict"),
        ({}, "missing, the first is 'conv1.weight'"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(content, words, tmp_path):
    model = fresh(1)
    path = written(tmp_path / "bad.pt", content)
    with pytest.raises(ConfigError, match=words) as told:
        load_weights(model, path)
    assert str(path) in str(told.value)
    same(model, fresh(1))


class Code:
    def __reduce__(self):
        return (print, ("run",))


def test_what_is_no_file_of_weights(tmp_path, capsys):
    for name, content in {
        "a.safetensors": b"not a file of tensors",
        "huge.safetensors": (1 << 60).to_bytes(8, "little") + b"{}",
        "empty.pt": b"",
        "code.pt": pickle.dumps(Code()),
        "text": b"hello",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match="are damaged, or hold more than plain tensors"):
            load_weights(fresh(), tmp_path / name)
    assert "run" not in capsys.readouterr().out
    for path in (tmp_path / "none.pt", tmp_path / "none.safetensors", tmp_path):
        for read in (file_digest, lambda path: load_weights(fresh(), path)):
            with pytest.raises(ConfigError, match=r"weights .* cannot be read: (No such|Is a)"):
                read(path)


def test_the_hash_is_of_the_content_and_as_before_without(tmp_path):
    one = written(tmp_path / "a.safetensors", fresh().state_dict())
    copy = tmp_path / "elsewhere.safetensors"
    copy.write_bytes(one.read_bytes())
    other = written(tmp_path / "b.safetensors", fresh(1).state_dict())
    plain, a, b, c = (configure("tiny", weights=w) for w in (None, one, copy, other))
    assert a == b
    assert len({x.hash for x in (plain, a, c)}) == len({x.series for x in (plain, a, c)}) == 3
    assert len({x.dense_folder for x in (plain, a, c)}) == 3
    assert configure("tiny", seed=1, weights=one).dense_folder == a.dense_folder
    before = plain.model_dump_json(exclude={"weights", "calibration", "also"})
    assert plain.hash == hashlib.sha256(before.encode()).hexdigest()[:10]
    with pytest.raises(ValidationError, match="weights"):
        tiny_run(weights="a/path.pt")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    path = written(folder / "mine.safetensors", mine().state_dict())
    config = tiny_run(weights=file_digest(path), method="uniform")
    return path, folder / "runs", config, run(config, folder / "runs", weights=path, progress=False)


def test_a_run_from_given_weights(given):
    path, out, config, record = given
    test = digits().batches("test", batch_size=500)
    assert record.scores.dense == evaluate(mine(), test, TASK).score
    assert (record.epochs["dense"], record.seconds["dense"]) == (0, 0)
    assert record.notes["weights"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not record.dense_reused
    kept = load_file(out / "dense" / config.dense_folder / "model.safetensors")
    assert all(torch.equal(kept[k], v) for k, v in mine().state_dict().items())
    assert not list(out.glob("dense/*/train.pt"))  # nothing was trained


def test_a_continued_run_needs_no_file(given, tmp_path):
    _, out, config, record = given
    shutil.copytree(out / "dense", tmp_path / "dense")
    again = run(config, tmp_path, progress=False)
    assert again.scores == record.scores
    assert not again.dense_reused


def test_no_file_or_another(given, tmp_path):
    path, _, config, _ = given
    other = written(tmp_path / "b.safetensors", fresh(1).state_dict())
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="holds no copy of them"):
        run(config, out, progress=False)
    with pytest.raises(ConfigError, match="names weights of SHA-256"):
        run(config, out, weights=other, progress=False)
    with pytest.raises(ConfigError, match="names no weights"):
        run(tiny_run(), out, weights=path, progress=False)
    wide = written(tmp_path / "c.pt", bias(torch.ones(5)))
    with pytest.raises(ConfigError, match=r"bn1.bias has the shape \(5,\)"):
        run(tiny_run(weights=file_digest(wide)), out, weights=wide, progress=False)
    assert not out.exists()


def test_the_command_line(given, tmp_path, monkeypatch, capsys):
    """Where a preset starts from random weights, given ones take their place."""
    path, _, _, record = given
    monkeypatch.setitem(presets.PRESETS, "quick", partial(tiny_preset, dense=None))
    words = ["dsa", "run", "--weights", path, "--method", "uniform", "--out", tmp_path, "--quiet"]
    monkeypatch.setattr("sys.argv", [str(w) for w in words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code, capsys.readouterr().err
    (found,) = tmp_path.rglob("record.json")
    assert json.loads(found.read_text())["scores"]["dense"] == record.scores.dense
