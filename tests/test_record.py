"""Records: whole, checked, and found again."""

import json

import pytest
from problems_runs import found, graph8, some_record
from pydantic import ValidationError

from dsa_core.errors import ConfigError
from dsa_core.files import atomic_file, write_atomically
from dsa_core.lab.record import GroupRecord, Record, Scores, SearchRecord
from dsa_core.lab.record_files import (
    FILE,
    find_records,
    read_record,
    write_lines,
    write_record,
)
from dsa_core.lab.runs.history import history_of, passing, search_record, write_history
from dsa_core.lab.runs.pack import pack


def test_round_trip(tmp_path):
    record = some_record(notes={"stopped": False, "precision": "fp32", "share": 0.5})
    path = write_record(tmp_path / "run", record)
    assert path == tmp_path / "run" / FILE
    assert read_record(path) == record
    assert [p.name for p in path.parent.iterdir()] == [FILE]
    assert read_record(path).total_seconds == 175
    assert read_record(path).costs["params"].ratio == 0.4


def test_numbers_that_json_lacks_survive(tmp_path):
    scores = Scores(dense=0.9, pruned=0.1, fine_tuned=0.1, masked_loss=float("inf"))
    path = write_record(tmp_path, some_record(scores=scores))
    json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(f"not JSON: {text}"))
    assert read_record(path).scores.masked_loss == float("inf")


def changed(tmp_path, change) -> str:
    """The error on reading a record that was changed."""
    path = write_record(tmp_path, some_record())
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    with pytest.raises(ConfigError) as caught:
        read_record(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_the_wrong_entry_is_named(tmp_path):
    assert "seed: " in changed(tmp_path, lambda r: r.update(seed="many"))
    assert "scores.pruned: Field required" in changed(tmp_path, lambda r: r["scores"].pop("pruned"))
    assert "groups.2.kept: " in changed(tmp_path, lambda r: r["groups"][2].update(kept=1.5))
    assert "colour: Extra inputs" in changed(tmp_path, lambda r: r.update(colour="red"))
    assert "resource: " in changed(tmp_path, lambda r: r.update(resource="joules"))
    assert "schema_version: " in changed(tmp_path, lambda r: r.update(schema_version=2))
    assert "scores.pruned" in changed(tmp_path, lambda r: r["scores"].update(pruned=1.5))
    assert "scores.dense" in changed(tmp_path, lambda r: r["scores"].update(dense=-0.1))
    assert "scores.pruned" in changed(tmp_path, lambda r: r["scores"].update(pruned="NaN"))
    assert "costs has no 'params'" in changed(tmp_path, lambda r: r["costs"].pop("params"))
    assert "seconds has no 'search'" in changed(tmp_path, lambda r: r["seconds"].pop("search"))
    assert "latency has no 'dense'" in changed(tmp_path, lambda r: r["latency"].pop("dense"))
    assert "costs.macs.dense" in changed(tmp_path, lambda r: r["costs"]["macs"].update(dense=0))
    assert "asked_ratio" in changed(tmp_path, lambda r: r.update(asked_ratio=5))
    assert "asked_ratio" in changed(tmp_path, lambda r: r["costs"]["macs"].update(asked_ratio=50))
    assert "relaxed" in changed(tmp_path, lambda r: r["costs"]["macs"].update(relaxed_ratio=-1))
    assert "at most the size, 16" in changed(tmp_path, lambda r: r["groups"][2].update(kept=17))
    assert "groups.2.keep_ratio" in changed(tmp_path, lambda r: r["groups"][2].update(keep_ratio=2))
    assert "epochs.search" in changed(tmp_path, lambda r: r["epochs"].update(search=-1))
    assert "trials" in changed(tmp_path, lambda r: r.update(trials=0))
    wide = {"updates": 1, "path": [[0.5] * 5]}
    assert "search.path needs 4 ratios" in changed(tmp_path, lambda r: r.update(search=wide))
    wide["path"] = [[0.5, 0.5, 0.5, 1.5]]
    assert "search.path.0.3: " in changed(tmp_path, lambda r: r.update(search=wide))
    assert "costs.latency" in changed(tmp_path, lambda r: r["costs"].update(latency={}))


def test_not_json(tmp_path):
    (tmp_path / FILE).write_text('{"seed": 0')
    with pytest.raises(ConfigError, match=r"record\.json: Invalid JSON"):
        read_record(tmp_path / FILE)


def test_a_record_of_before_the_series_is_read(tmp_path):
    path = write_record(tmp_path, some_record())
    old = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("series", "divisor")}
    path.write_text(json.dumps(old))
    assert read_record(path) == some_record(series="")


def test_a_score_in_decibels_is_no_share(tmp_path):
    scores = Scores(dense=31.5, pruned=28.0, fine_tuned=31.0, masked_loss=0.5)
    path = write_record(tmp_path, some_record(scores=scores, score_unit="dB"))
    assert read_record(path).scores == scores


def test_what_else_was_asked(tmp_path):
    record = some_record(also_asked={"params": 0.4})
    assert read_record(write_record(tmp_path, record)).asked == {"macs": 0.5, "params": 0.4}
    assert some_record().asked == {"macs": 0.5}


def test_a_damaged_record_is_named_and_left_out(tmp_path, capsys):
    write_record(tmp_path / "a", some_record())
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / FILE).write_text("{}")
    write_lines(tmp_path / "c.jsonl", [some_record(seed=1)])
    with (tmp_path / "c.jsonl").open("a") as file:
        file.write(some_record(seed=2).model_dump_json()[:-20] + "\n")
    assert find_records(tmp_path) == [some_record(), some_record(seed=1)]
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"left out: {tmp_path / 'b' / FILE}: ")
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


def test_a_pack_has_what_old_records_lack_and_replaces_only_its_own_runs(tmp_path):
    folder, file = tmp_path / "runs", tmp_path / "runs.jsonl"
    write_lines(file, [some_record(config_hash="other"), small(device="before")])
    write_record(folder / "a", small())
    (folder / "a" / "config.json").write_text('{"seed": 0}')
    write_history(folder / "a", history_of(found("dsa")))
    assert pack(folder, file) == 2
    other, packed = find_records(file)
    assert (other.config_hash, packed.config) == ("other", {"seed": 0})
    assert packed == small(
        config={"seed": 0}, search=search_record(history_of(found("dsa")), graph8())
    )
    assert packed.search.updates == len(found("dsa").updates)
    assert packed.search.path[-1] == pytest.approx(found("dsa").updates[-1].keep_ratios, rel=1e-5)
    write_history(folder / "a", history_of(found("dsa")) | {"groups": ["other"]})
    with pytest.raises(ConfigError, match="its groups are not those of the record"):
        pack(folder, file)


def small(**changes) -> Record:
    groups = [
        GroupRecord(name=g.name, size=g.size, kept=1, keep_ratio=0.5) for g in graph8().prunable
    ]
    return some_record(model="resnet8", groups=tuple(groups), **changes)


@pytest.mark.parametrize(("file", "text"), [("config.json", "{"), ("history.json", "{}")])
def test_nothing_is_packed_from_damaged_files(tmp_path, file, text):
    write_record(tmp_path / "runs", small())
    (tmp_path / "runs" / file).write_text(text)
    with pytest.raises(ConfigError, match=r"runs: config\.json or history\.json is damaged"):
        pack(tmp_path / "runs", tmp_path / "runs.jsonl")
    assert not (tmp_path / "runs.jsonl").exists()


def test_an_empty_folder_is_not_packed(tmp_path):
    with pytest.raises(ConfigError, match=r"no record\.json below"):
        pack(tmp_path, tmp_path / "runs.jsonl")


def test_the_updates_kept_answer_each_per_cent_as_all_updates_do():
    costs = [1.0, 0.74, 0.76, 0.751, 0.503, 0.52, 0.499, 0.501]
    kept = passing(costs)
    for budget in (b / 100 for b in range(1, 101)):
        last = max((i for i, c in enumerate(costs) if c >= budget), default=None)
        assert last is None or last == max(i for i in kept if costs[i] >= budget)
    assert kept == {0, 2, 3, 5, 6, 7}


def test_records_are_frozen():
    with pytest.raises(ValidationError):
        some_record().seed = 1
    assert Record.model_fields.keys() >= {"config_hash", "versions", "device", "git_commit"}


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
    assert path.read_bytes() == b"second"

    def half() -> None:
        with atomic_file(path) as file:
            file.write(b"thi")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        half()
    assert path.read_bytes() == b"second"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / FILE).write_bytes(b"\xff\xfe{}")
    with pytest.raises(ConfigError, match=r"record\.json: Invalid JSON"):
        read_record(tmp_path / FILE)
