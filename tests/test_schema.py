"""What a forged `architecture.json` may not say."""

import json

import pytest
import torch

from dsa_core.errors import SurgeryError
from dsa_core.example import Call
from dsa_core.lab import models
from dsa_core.surgery import prune, save
from dsa_core.surgery.schema import MAX_ELEMENTS, check_architecture
from dsa_core.surgery.verify import random_channels
from dsa_core.tracing import trace


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    model = models.build("resnet8").eval()
    graph = trace(model, torch.zeros(1, 1, 8, 8))
    keep = random_channels(graph, 0.5, 0)
    folder = tmp_path_factory.mktemp("saved")
    save(folder, prune(model, graph, keep), graph, keep, name="resnet8")
    return (folder / "architecture.json").read_text()


def test_what_save_writes_is_read(text):
    found = check_architecture(json.loads(text), "a file")
    assert (found.model, found.num_classes, found.input_shape) == ("resnet8", 10, [1, 1, 8, 8])
    assert found.model_dump(exclude={"sha256"}) == {
        k: v for k, v in json.loads(text).items() if k != "sha256"
    }


def test_a_file_of_old_has_an_input_shape_alone(text):
    found = json.loads(text)
    del found["example"], found["earlier"]
    assert check_architecture(found, "a file").example is None


def test_every_form_of_a_call_is_read(text):
    x = torch.zeros(1, 2)
    call = Call(([x, (x, 1.5)], None, "a"), {"mask": {"b": x.bool(), 3: [True]}})
    found = forged(text, "example", json.loads(json.dumps(call.describe())))
    assert check_architecture(found, "a file").example.kwargs == found["example"]["kwargs"]


ENTRIES = ["format", "model", "num_classes", "input_shape", "groups", "tensors", "versions"]
LATER = ["example", "earlier"]  # which files of old do not have


@pytest.mark.parametrize("entry", LATER)
@pytest.mark.parametrize("value", [True, 3, "ten", ["a"]])
def test_a_later_entry_of_another_kind_is_named(text, entry, value):
    with pytest.raises(SurgeryError, match=rf"^the\.json: entry {entry}"):
        check_architecture(json.loads(text) | {entry: value}, "the.json")


@pytest.mark.parametrize("deep", [21, 300])
def test_lists_in_lists_have_an_end(text, deep):
    value = 1
    for _ in range(deep):
        value = {"list": [value]}
    with pytest.raises(SurgeryError, match="nested more than 20 deep"):
        check_architecture(forged(text, "example/args", [value]), "the.json")


WRONG = [None, True, {"name": 3}, "ten", 1.5, ["a"], "absent"]


@pytest.mark.parametrize(
    ("entry", "value"),
    [(e, v) for e in (*ENTRIES, "sha256") for v in WRONG if (e, v) != ("model", "ten")],
)
def test_an_entry_of_another_kind_is_named(text, entry, value):
    found = json.loads(text)
    found[entry] = value
    if value == "absent":
        del found[entry]
    with pytest.raises(SurgeryError, match=rf"^the\.json: entry {entry}"):
        check_architecture(found, "the.json")


def forged(text: str, path: str, value: object) -> dict:
    found = json.loads(text)
    *above, last = path.split("/")
    here = found
    for part in above:
        here = here[part]
    here[last] = value
    return found


@pytest.mark.parametrize(
    ("path", "value"),
    [
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
        ("tensors/conv1.weight", {"shape": [-1], "dtype": "float32", "sha256": "0" * 64}),
        ("tensors/conv1.weight", {"shape": [1], "dtype": 3, "sha256": "0" * 64}),
        ("tensors/conv1.weight", {"shape": [1], "dtype": "float32", "sha256": "short"}),
        ("versions/torch", 2),
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
        ("sha256/model", "short"),
    ],
)
def test_a_forged_value_is_refused_by_name(text, path, value):
    with pytest.raises(SurgeryError, match=rf"^the\.json: entry {path.split('/')[0]}"):
        check_architecture(forged(text, path, value), "the.json")


def test_sides_that_are_allowed_may_be_too_many_together(text):
    found = forged(text, "input_shape", [1, 3, 65_536, 65_536])
    with pytest.raises(SurgeryError, match=f"allowed are {MAX_ELEMENTS}"):
        check_architecture(found, "the.json")


@pytest.mark.parametrize("found", [None, [], 3, "text", {}])
def test_what_is_no_architecture(found):
    with pytest.raises(SurgeryError, match=r"the\.json: entry"):
        check_architecture(found, "the.json")
