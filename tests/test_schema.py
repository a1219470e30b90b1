"""What a forged `architecture.json` or `sparse.json` may not say."""

import json
from pathlib import Path

import pytest
import torch

from dsa_core.errors import SurgeryError
from dsa_core.example import Call
from dsa_core.lab import models
from dsa_core.surgery import prune, save
from dsa_core.surgery.files import read_facts
from dsa_core.surgery.schema import MAX_ELEMENTS, Architecture, Facts, Sparse, check_facts
from dsa_core.surgery.sparse import save_sparse, zero_weights
from dsa_core.surgery.verify import random_channels
from dsa_core.tracing import trace


def written(folder: Path, kind: type[Facts]) -> Path:
    """The file of facts of a small network, without channels or without single weights."""
    model = models.build("resnet8").eval()
    graph = trace(model, torch.zeros(1, 1, 8, 8))
    if kind is Sparse:
        masks = {"conv1.weight": model.conv1.weight > 0, "linear.weight": model.linear.weight > 0}
        save_sparse(folder, zero_weights(model, masks), graph, masks, name="resnet8")
        return folder / "sparse.json"
    keep = random_channels(graph, 0.5, 0)
    save(folder, prune(model, graph, keep), graph, keep, name="resnet8")
    return folder / "architecture.json"


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> dict[type[Facts], str]:
    return {
        kind: written(tmp_path_factory.mktemp("saved"), kind).read_text()
        for kind in (Architecture, Sparse)
    }


@pytest.fixture
def text(texts) -> str:
    return texts[Architecture]


KINDS = [Architecture, Sparse]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read(texts, kind):
    written = json.loads(texts[kind])
    found = check_facts(written, kind, "a file")
    assert (found.model, found.num_classes, found.input_shape) == ("resnet8", 10, [1, 1, 8, 8])
    assert found.model_dump(mode="json") == written


def test_a_file_of_old_has_an_input_shape_alone(text):
    found = json.loads(text)
    del found["example"], found["earlier"]
    assert check_facts(found, Architecture, "a file").example is None


def test_every_form_of_a_call_is_read(text):
    x = torch.zeros(1, 2)
    call = Call(([x, (x, 1.5)], None, "a"), {"mask": {"b": x.bool(), 3: [True]}})
    found = forged(text, "example", json.loads(json.dumps(call.describe())))
    assert check_facts(found, Architecture, "a file").example.kwargs == found["example"]["kwargs"]


ENTRIES = [
    (kind, e) for kind in KINDS for e in kind.model_fields if e not in ("example", "earlier")
]
LATER = [(Architecture, e) for e in ("example", "earlier")]  # which files of old do not have
OTHER = {
    "format": 2,
    "model": "resnet20",
    "num_classes": 11,
    "input_shape": [1, 1, 8, 9],
    "example": {"args": [{"tensor": [1, 1, 9, 9], "dtype": "float32"}], "kwargs": {}},
    "earlier": [{"example": {"args": [], "kwargs": {}}, "groups": {}}],
}


@pytest.mark.parametrize(("kind", "entry"), [*ENTRIES, *LATER])
def test_every_changed_or_missing_entry_is_named(texts, kind, entry, tmp_path):
    path, found = tmp_path / "the.json", json.loads(texts[kind])
    missing = {key: value for key, value in found.items() if key != entry}
    named = f"'?{entry}'?" if entry != "sha256" else r"(sha256|'\w+' was changed)"
    for other in (found | {entry: OTHER.get(entry, {})}, missing):
        path.write_text(json.dumps(other))
        with pytest.raises(SurgeryError, match=rf"the\.json: entry {named}"):
            read_facts(path, kind)


@pytest.mark.parametrize("value", [True, 3, "ten", ["a"]])
@pytest.mark.parametrize(("kind", "entry"), LATER)
def test_a_later_entry_of_another_kind_is_named(texts, kind, entry, value):
    with pytest.raises(SurgeryError, match=rf"^the\.json: entry {entry}"):
        check_facts(json.loads(texts[kind]) | {entry: value}, kind, "the.json")


@pytest.mark.parametrize("deep", [21, 300])
def test_lists_in_lists_have_an_end(text, deep):
    value = 1
    for _ in range(deep):
        value = {"list": [value]}
    with pytest.raises(SurgeryError, match="nested more than 20 deep"):
        check_facts(forged(text, "example/args", [value]), Architecture, "the.json")


@pytest.mark.parametrize("value", [None, True, {"name": 3}, "ten", 1.5, ["a"]])
@pytest.mark.parametrize(("kind", "entry"), ENTRIES)
def test_an_entry_of_another_kind_is_named(texts, kind, entry, value):
    if (entry, value) == ("model", "ten"):
        return
    with pytest.raises(SurgeryError, match=rf"^the\.json: entry {entry}"):
        check_facts(json.loads(texts[kind]) | {entry: value}, kind, "the.json")


def forged(text: str, path: str, value: object) -> dict:
    found = json.loads(text)
    *above, last = path.split("/")
    here = found
    for part in above:
        here = here[part]
    here[last] = value
    return found


FORGED = [
    ("num_classes", 10**9),
    ("num_classes", 0),
    ("num_classes", -1),
    ("input_shape", []),
    ("input_shape", [1] * 9),
    ("input_shape", [1, 1, 200_000, 200_000]),
    ("input_shape", [1, 1, 0, 8]),
    ("input_shape", [1, 1, -8, -8]),
    ("input_shape", [1, 1, 8.0, 8]),
    ("model", "a" * 2000),
    ("format", 0),
    ("tensors/linear.bias", {"shape": [-1], "dtype": "float32", "sha256": "0" * 64}),
    ("tensors/linear.bias", {"shape": [1], "dtype": 3, "sha256": "0" * 64}),
    ("tensors/linear.bias", {"shape": [1], "dtype": "float32", "sha256": "short"}),
    ("versions/torch", 2),
    ("sha256/model", "short"),
]
OWN = {
    Architecture: [
        ("groups/conv1", {"size": 0, "kept": [0]}),
        ("groups/conv1", {"size": 10**9, "kept": [0]}),
        ("groups/conv1", {"size": 16, "kept": []}),
        ("groups/conv1", {"size": 16, "kept": [-1, 2]}),
        ("groups/conv1", {"size": 16, "kept": [2, 1]}),
        ("groups/conv1", {"size": 16, "kept": [1, 1]}),
        ("groups/conv1", {"size": 16, "kept": [3, 16]}),
        ("groups/conv1", {"size": 16, "kept": [True]}),
        ("groups/conv1", {"size": "16", "kept": [1]}),
        ("groups/conv1", [1, 2]),
        ("example", {"args": 3, "kwargs": {}}),
        ("example/args", [{"tensor": [1, 10**9], "dtype": "float32"}]),
        ("example/args", [{"tensor": [1, -1], "dtype": "float32"}]),
        ("example/args", [{"tensor": ["a"], "dtype": "float32"}]),
        ("example/args", [{"tensor": [65_536, 65_536], "dtype": "float32"}]),
        ("example/args", [{"tensor": [60_000, 1_200], "dtype": "float32"}] * 2),
        ("example/args", [{"tensor": [1, 8], "dtype": "load"}]),
        ("example/args", [{"list": 3}]),
        ("example/args", [{"set": [1]}]),
        ("example/args", [{"dict": [["a"]]}]),
        ("example/args", [{"list": [], "tuple": []}]),
        ("example/args", [[1, 2]]),
        ("earlier", [{"groups": {}}]),
        ("earlier", [{"example": {"args": [], "kwargs": {}}, "groups": {"a": 3}}]),
    ],
    Sparse: [
        ("shapes/conv1.weight", [16, 1, 3, -3]),
        ("shapes/conv1.weight", [16, 0, 3, 3]),
        ("shapes/conv1.weight", [16, 1, 3, 3.0]),
        ("shapes/conv1.weight", [1 << 20, 1 << 20]),
        ("shapes/conv1.weight", [65_536, 65_536]),
        ("shapes/conv1.weight", 144),
        ("shapes", {"a" * 2000: [1]}),
    ],
}


@pytest.mark.parametrize(
    ("kind", "path", "value"), [(kind, *case) for kind in KINDS for case in (*FORGED, *OWN[kind])]
)
def test_a_forged_value_is_refused_by_name(texts, kind, path, value):
    with pytest.raises(SurgeryError, match=rf"^the\.json: entry {path.split('/')[0]}"):
        check_facts(forged(texts[kind], path, value), kind, "the.json")


@pytest.mark.parametrize("kind", KINDS)
def test_sides_that_are_allowed_may_be_too_many_together(texts, kind):
    found = forged(texts[kind], "input_shape", [1, 3, 65_536, 65_536])
    with pytest.raises(SurgeryError, match=f"allowed are {MAX_ELEMENTS}"):
        check_facts(found, kind, "the.json")


@pytest.mark.parametrize("text", ["null", "[]", "3", '"text"', "{}", "", "[" * 100_000, "1" * 5000])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_of_facts(kind, text, tmp_path):
    (tmp_path / "the.json").write_text(text)
    with pytest.raises(SurgeryError, match=r"the\.json: (entry|cannot be read)"):
        read_facts(tmp_path / "the.json", kind)
