"""What a forged `architecture.json` or `sparse.json` may not say."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from problems_runs import save_pruned, save_sparse8

from dsa_core.errors import SurgeryError
from dsa_core.example import Call
from dsa_core.surgery.files import digest, read_facts
from dsa_core.surgery.schema import Architecture, Facts, Sparse

KINDS = [Architecture, Sparse]


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> dict[type[Facts], str]:
    folder = tmp_path_factory.mktemp("saved")
    save_pruned(folder)
    save_sparse8(folder)
    files = ((Architecture, "architecture.json"), (Sparse, "sparse.json"))
    return {kind: (folder / name).read_text() for kind, name in files}


def read(folder: Path, kind: type[Facts], found: object) -> Facts:
    (folder / "the.json").write_text(json.dumps(found))
    return read_facts(folder / "the.json", kind)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read(texts, kind, tmp_path):
    written = json.loads(texts[kind])
    found = read(tmp_path, kind, written)
    assert (found.model, found.num_classes, found.input_shape) == ("resnet8", 10, [1, 1, 8, 8])
    assert found.model_dump(mode="json") == written


def test_every_form_of_a_call_is_read(texts, tmp_path):
    x = torch.zeros(1, 2)
    call = Call(([x, (x, 1.5)], None, "a"), {"mask": {"b": x.bool(), 3: [True]}})
    found = json.loads(texts[Architecture])
    found["example"] = json.loads(json.dumps(call.describe()))
    found["sha256"]["example"] = digest(found["example"])
    assert vars(read(tmp_path, Architecture, found).example) == found["example"]


ENTRIES = [(kind, entry) for kind in KINDS for entry in kind.model_fields]
OTHER = {  # right by themselves
    "format": 2,
    "model": "resnet20",
    "num_classes": 11,
    "input_shape": [1, 1, 8, 9],
    "example": {"args": [{"tensor": [1, 1, 9, 9], "dtype": "float32"}], "kwargs": {}},
    "earlier": [{"example": {"args": [], "kwargs": {}}, "groups": {}}],
}


@pytest.mark.parametrize(("kind", "entry"), ENTRIES)
def test_every_changed_or_missing_entry_is_named(texts, kind, entry, tmp_path):
    found = json.loads(texts[kind])
    missing = {key: value for key, value in found.items() if key != entry}
    named = f"'?{entry}'?" if entry != "sha256" else r"(sha256|'\w+' was changed)"
    for other in (found | {entry: OTHER.get(entry, {})}, missing):
        with pytest.raises(SurgeryError, match=rf"the\.json: entry {named}"):
            read(tmp_path, kind, other)


def nested(deep: int) -> Any:
    return {"list": [nested(deep - 1)]} if deep else 1


def shaped(*sizes: object, dtype: str = "float32") -> dict[str, object]:
    return {"tensor": list(sizes), "dtype": dtype}


FACTS: dict[str, list[object]] = {  # an entry, or a place in it -> what it may not be
    "num_classes": [10**9, 0, -1, "ten"],
    "input_shape": [
        [1] * 9, [1, 1, 1 << 25, 1], [1, 1, 0, 8], [1, 1, -8, -8], [1, 1, 8.0, 8],
        [1, 3, 65_536, 65_536],  # each side is allowed
    ],
    "model": ["a" * 2000],
    "format": [0],
    "tensors/linear.bias": [
        {"shape": [-1], "dtype": "float32", "sha256": "0" * 64},
        {"shape": [1], "dtype": 3, "sha256": "0" * 64},
        {"shape": [1], "dtype": "float32", "sha256": "short"},
    ],
    "versions/torch": [2],
    "sha256/model": ["short"],
}  # fmt: skip
OWN: dict[type[Facts], dict[str, list[object]]] = {
    Architecture: {
        "groups/conv1/size": [0, 10**9, "16"],
        "groups/conv1/kept": [[], [-1, 2], [2, 1], [1, 1], [3, 16], [True]],
        "groups/conv1": [[1, 2]],
        "example": [{"args": 3, "kwargs": {}}],
        "example/args": [
            [shaped(1, 10**9)], [shaped(1, -1)], [shaped("a")], [shaped(65_536, 65_536)],
            [shaped(60_000, 1_200)] * 2, [shaped(1, 8, dtype="load")], [nested(21)], [nested(300)],
            [{"list": 3}], [{"set": [1]}], [{"dict": [["a"]]}], [{"list": [], "tuple": []}], [[1]],
        ],
        "earlier": [
            [{"groups": {}}], [{"example": {"args": [], "kwargs": {}}, "groups": {"a": 3}}],
        ],
    },
    Sparse: {
        "shapes/conv1.weight": [
            [16, 1, 3, -3], [16, 0, 3, 3], [16, 1, 3, 3.0], [1 << 25, 1], [65_536, 65_536], 144,
        ],
        "shapes": [{"a" * 2000: [1]}],
    },
}  # fmt: skip
WRONG = [(*case, [None, True, {"name": 3}, 1.5, ["a"]]) for case in ENTRIES] + [
    (kind, *case) for kind in KINDS for case in (FACTS | OWN[kind]).items()
]


@pytest.mark.parametrize(("kind", "path", "values"), WRONG)
def test_a_forged_value_is_refused_by_name(texts, kind, path, values, tmp_path):
    *above, last = path.split("/")
    for value in values:
        here = found = json.loads(texts[kind])
        for part in above:
            here = here[part]
        here[last] = value
        # by its limits, not by its digest, which may be forged too
        with pytest.raises(SurgeryError, match=rf"entry ({path.split('/')[0]}|'format' is)\b"):
            read(tmp_path, kind, found)


@pytest.mark.parametrize("text", ["null", "[]", "3", '"text"', "{}", "", "[" * 100_000, "1" * 5000])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_of_facts(kind, text, tmp_path):
    (tmp_path / "the.json").write_text(text)
    with pytest.raises(SurgeryError, match=r"the\.json: (entry|cannot be read)"):
        read_facts(tmp_path / "the.json", kind)
