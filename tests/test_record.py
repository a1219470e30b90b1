"""Records: whole, checked, and found again."""

import json
from pathlib import Path

import pytest
from problems_runs import some_record

from dsa_core.errors import ConfigError
from dsa_core.files import atomic_file, write_atomically
from dsa_core.lab.record import Scores, SearchRecord
from dsa_core.lab.record_files import (
    FILE,
    find_records,
    pack,
    read_record,
    write_lines,
    write_record,
)
from dsa_core.lab.report_cli import pack_command
from dsa_core.lab.runs.history import passing

DECIBELS = Scores(dense=31.5, pruned=28.0, fine_tuned=31.0, masked_loss=float("inf"))


def test_round_trip(tmp_path):
    record = some_record(
        scores=DECIBELS,  # no shares of 1, and one that JSON lacks
        score_unit="dB",
        also_asked={"params": 0.4},
        notes={"stopped": False, "precision": "fp32", "share": 0.5},
    )
    path = write_record(tmp_path / "run", record)
    assert path == tmp_path / "run" / FILE
    assert [p.name for p in path.parent.iterdir()] == [FILE]
    json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(f"not JSON: {text}"))
    assert read_record(path) == record
    assert record.total_seconds == 175
    assert record.costs["params"].ratio == 0.4
    assert record.asked == {"macs": 0.5, "params": 0.4}


@pytest.mark.parametrize(
    ("entry", "value", "told"),
    [
        ("seed", "many", "seed: "),
        ("colour", "red", "colour: Extra inputs"),
        ("schema_version", 2, "schema_version: "),
        ("scores.pruned", None, "scores.pruned: "),
        ("scores.pruned", "NaN", "scores.pruned: "),
        ("scores.pruned", 1.5, r"scores.pruned must be a share in \[0, 1\], got 1.5"),
        ("scores.dense", -0.1, "scores.dense must be a share"),
        ("costs", {}, "costs has no 'macs'"),
        ("costs.latency", {}, "costs.latency"),
        ("costs.macs.dense", 0, "costs.macs.dense: "),
        ("costs.macs.asked_ratio", 50, "asked_ratio"),
        ("costs.macs.relaxed_ratio", -1, "relaxed_ratio"),
        ("seconds", {"dense": 1, "fine_tune": 1}, "seconds has no 'search'"),
        ("epochs", {"dense": 1, "search": 1}, "epochs has no 'fine_tune'"),
        ("latency", {}, "latency has no 'dense'"),
        ("groups.2.kept", 17, "at most the size, 16"),
        ("groups.2.keep_ratio", 2, "groups.2.keep_ratio"),
        ("epochs.search", -1, "epochs.search"),
        ("trials", 0, "trials"),
        ("search", {"updates": 1, "path": [[0.5] * 5]}, "search.path needs 4 ratios"),
        ("search", {"updates": 1, "path": [[0.5, 0.5, 0.5, 1.5]]}, "search.path.0.3: "),
    ],
)
def test_the_wrong_entry_is_named(entry, value, told, tmp_path):
    path = write_record(tmp_path, some_record())
    content = here = json.loads(path.read_text())
    *above, name = (int(word) if word.isdigit() else word for word in entry.split("."))
    for word in above:
        here = here[word]
    here[name] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=rf"{path}: .*{told}"):
        read_record(path)


@pytest.mark.parametrize("content", [b'{"seed": 0', b"\xff\xfe{}"])
def test_a_file_that_is_not_json(content, tmp_path):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ConfigError, match=r"record\.json: Invalid JSON"):
        read_record(tmp_path / FILE)


def test_a_record_of_before_the_series_is_read(tmp_path):
    path = write_record(tmp_path, some_record())
    old = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("series", "divisor")}
    path.write_text(json.dumps(old))
    assert read_record(path) == some_record(series="")


def test_a_damaged_record_is_named_and_left_out(tmp_path, capsys):
    write_record(tmp_path / "a", some_record())
    (tmp_path / "b" / FILE).mkdir(parents=True)
    write_lines(tmp_path / "c.jsonl", [some_record(seed=1)])
    with (tmp_path / "c.jsonl").open("a") as file:
        file.write(some_record(seed=2).model_dump_json()[:-20] + "\n")
    assert find_records(tmp_path) == [some_record(), some_record(seed=1)]
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"left out: {tmp_path / 'b' / FILE}: cannot be read")
    assert second.startswith(f"left out: {tmp_path / 'c.jsonl'}, line 2: Invalid JSON")


def test_lines_and_folders_hold_the_same_records(tmp_path):
    records = [some_record(seed=1), some_record(seed=2, search=SearchRecord(updates=3))]
    write_lines(tmp_path / "both.jsonl", records)
    assert find_records(tmp_path / "both.jsonl") == records
    old = some_record(seed=2)  # the same run, before a record had its search
    write_record(tmp_path / "run", old)
    assert find_records(tmp_path / "run", tmp_path / "both.jsonl") == [old, records[0]]
    (tmp_path / "both.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match=r"both\.jsonl, line 1: "):
        find_records(tmp_path, strict=True)


def test_a_pack_of_the_folder_one_is_in(tmp_path, monkeypatch, capsys):
    write_record(tmp_path / "runs" / "a", some_record())
    monkeypatch.chdir(tmp_path / "runs")
    pack_command(Path("."))
    assert find_records(tmp_path / "runs.jsonl") == [some_record()]
    assert str(tmp_path / "runs.jsonl") in capsys.readouterr().out


def test_a_pack_replaces_only_its_own_runs(tmp_path):
    folder, file = tmp_path / "runs", tmp_path / "runs.jsonl"
    with pytest.raises(ConfigError, match=r"no record\.json below"):
        pack(folder, file)
    other, run = some_record(config_hash="other"), some_record()
    write_lines(file, [other, some_record(device="before")])
    write_record(folder / "a", run)
    assert pack(folder, file) == 2
    assert find_records(file) == [other, run]
    write_record(folder / "b", run).write_text("{}")
    with pytest.raises(ConfigError, match=r"b/record\.json: "):
        pack(folder, file)
    assert find_records(file) == [other, run]


def test_the_updates_kept_answer_each_per_cent_as_all_updates_do():
    costs = [1.0, 0.74, 0.76, 0.751, 0.503, 0.52, 0.499, 0.501]
    kept = passing(costs)
    for budget in (b / 100 for b in range(1, 101)):
        last = max((i for i, c in enumerate(costs) if c >= budget), default=None)
        assert last is None or last == max(i for i in kept if costs[i] >= budget)
    assert kept == {0, 2, 3, 5, 6, 7}


def test_a_run_that_was_repeated_is_counted_once_as_its_folder_has_it(tmp_path):
    again = some_record(seconds={"dense": 0.0, "search": 1.0, "fine_tune": 1.0})
    write_record(tmp_path / "run", again)
    write_lines(tmp_path / "packed.jsonl", [some_record(), some_record(seed=1)])
    assert find_records(tmp_path) == [again, some_record(seed=1)]


def test_find_records(tmp_path):
    for name in ("b", "a", "deep/er"):
        write_record(tmp_path / name, some_record(device=name))
    (tmp_path / "a" / "config.json").write_text("{}")
    assert [r.device for r in find_records(tmp_path)] == ["a", "b", "deep/er"]
    both = find_records(tmp_path / "deep", tmp_path / "a")
    assert [r.device for r in both] == ["deep/er", "a"]
    assert len(find_records(tmp_path, tmp_path / "deep")) == 3  # each once
    (tmp_path / "empty").mkdir()
    assert find_records(tmp_path / "empty") == []
    with pytest.raises(ConfigError, match="nowhere does not exist: give the folder"):
        find_records(tmp_path / "nowhere")


def test_files_are_whole_or_not_there(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    write_atomically(path, "first")
    write_atomically(path, b"second")

    def half() -> None:
        with atomic_file(path) as file:
            file.write(b"thi")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        half()
    assert path.read_bytes() == b"second"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_pack_keeps_the_runs_of_each_device(tmp_path):
    folder, file = tmp_path / "runs", tmp_path / "runs.jsonl"
    for name in ("a", "b"):
        write_record(folder / name, some_record(device=name))
    assert pack(folder, file) == 2
    write_record(tmp_path / "more" / "c", some_record(seed=1))
    assert pack(tmp_path / "more", file) == 3
