"""A run: configuration, phases, record; and one that is killed ends as if it were not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from problems_runs import PLAIN, digits, fresh, tiny_preset, tiny_run
from pydantic import ValidationError

from dsa_core.allocators import SearchConfig
from dsa_core.errors import ConfigError
from dsa_core.experiment import PRESETS, RunConfig, configure, run
from dsa_core.experiment.facts import versions
from dsa_core.record import FILE, Record, read_record
from dsa_core.surgery import load
from dsa_core.training import TrainConfig, evaluate

TIMED = {
    "seconds",
    "processor_seconds",
    "latency",
    "git_commit",
}  # what may differ between two runs of one configuration

# ------------------------------------------------------------------ configuration


def test_the_hash_is_the_same_in_another_process():
    code = (
        "from dsa_core.experiment import configure;"
        "c = configure('quick', ratio=0.3, floors={'b': .2, 'a': .1}, seed=4);"
        "print(c.hash, c.series, c.folder, c.dense_folder)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    here = configure("quick", ratio=0.3, floors={"a": 0.1, "b": 0.2}, seed=4)  # another order
    assert found.stdout.split() == [here.hash, here.series, here.folder, here.dense_folder]


def test_the_hash_knows_every_setting():
    one = configure("quick")
    others = [
        configure("quick", seed=1),
        configure("quick", ratio=0.51),
        configure("quick", resource="params"),
        configure("quick", method="uniform"),
        configure("quick", divisor=8),
        configure("quick", floors={"*": 0.1}),
        configure("cpu-short"),
        one.model_copy(update={"preset": one.preset.model_copy(update={"norm_batches": 21})}),
    ]
    assert len({c.hash for c in [one, *others]}) == 1 + len(others)
    assert [c.series == one.series for c in others] == [True] + [False] * 7
    assert len({c.folder for c in [one, *others]}) == 1 + len(others)
    assert RunConfig.model_validate_json(one.model_dump_json()) == one


@pytest.mark.parametrize("name", PRESETS)
def test_presets_read_back_from_their_file(name):
    config = configure(name)
    assert RunConfig.model_validate_json(config.model_dump_json()).hash == config.hash
    assert config.model == config.preset.model


def test_unknown_names():
    with pytest.raises(ConfigError, match="unknown preset 'cpu': did you mean 'cpu-short'"):
        configure("cpu")
    with pytest.raises(ConfigError, match="unknown method 'unifrom': did you mean 'uniform'"):
        configure("quick", method="unifrom")
    with pytest.raises(ValueError, match="did you mean 'uniform'"):
        tiny_run(method="unifrom")
    with pytest.raises(ValidationError, match="colour"):
        tiny_run(colour="red")
    with pytest.raises(ValidationError, match="ratio"):
        tiny_run(ratio=1.5)


def test_a_folder_name_has_nothing_a_path_would_trip_over():
    config = tiny_run(model="my.nets:make/it", dataset="folder:/data/flowers")
    assert "/" not in config.folder + config.dense_folder
    assert ":" not in config.folder


# ------------------------------------------------------------------ one run


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, RunConfig, Record]:
    out, config = tmp_path_factory.mktemp("runs"), tiny_run()
    return out, config, run(config, out, progress=False)


def test_the_folder_of_a_run(finished):
    out, config, record = finished
    folder = out / config.folder
    assert {p.name for p in folder.iterdir()} == {
        "config.json",
        "record.json",
        "history.json",
        "checkpoints",
        "pruned",
    }
    assert RunConfig.model_validate_json((folder / "config.json").read_text()) == config
    assert read_record(folder / FILE) == record
    history = json.loads((folder / "history.json").read_text())
    assert history["groups"] == [g.name for g in record.groups]
    assert history["updates"]["step"] == [0, 2, 4, 6]  # two epochs of four steps, every second one
    assert {len(v) for v in history["updates"].values()} == {4}


def test_the_record_is_what_the_files_hold(finished):
    out, config, record = finished
    assert (record.config_hash, record.series, record.seed) == (config.hash, config.series, 0)
    macs, params = record.costs["macs"], record.costs["params"]
    assert macs.counted == macs.whole <= 0.5 * macs.dense
    assert record.budget_met
    assert macs.relaxed_ratio == pytest.approx(0.5, rel=1e-3)
    assert (macs.asked_ratio, params.asked_ratio) == (0.5, None)
    assert params.dense == sum(p.numel() for p in fresh().parameters())
    pruned = load(out / config.folder / "pruned")
    assert params.counted == params.whole == sum(p.numel() for p in pruned.parameters())
    test = digits().batches("test", batch_size=500)
    score = evaluate(pruned, test, tiny_task()).score
    assert score == pytest.approx(record.scores.fine_tuned, abs=1e-6)
    assert record.epochs == {"dense": 2, "search": 2, "fine_tune": 2}
    assert all(s > 0 for s in record.seconds.values())
    assert [g.kept for g in record.groups] == [
        len(entry["kept"]) for entry in architecture(out / config.folder)["groups"].values()
    ]
    assert record.versions == versions()
    assert record.latency["dense"].batch == 128


def tiny_task():
    from dsa_core.data import classification

    return classification()


def architecture(folder: Path) -> dict:
    return json.loads((folder / "pruned" / "architecture.json").read_text())


def test_a_finished_run_is_read_not_run(finished, capsys):
    out, config, record = finished
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    assert run(config, out) == record
    assert "done before" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()} == before


def test_the_dense_network_says_how_it_was_made(finished):
    out, config, record = finished
    facts = json.loads(next((out / "dense").rglob("dense.json")).read_text())
    told = {name: facts[name] for name in ("model", "dataset", "seed", "score", "score_name")}
    assert told == {
        "model": config.model,
        "dataset": config.dataset,
        "seed": config.seed,
        "score": record.scores.dense,
        "score_name": record.score_name,
    }
    assert facts["epochs"] == len(facts["history"]) == facts["config"]["epochs"]
    assert (facts["versions"], facts["device"]) == (record.versions, record.device)
    assert (facts["precision"], facts["git_commit"]) == ("fp32", record.git_commit)


def test_force_runs_again_to_the_same_result(finished):
    out, config, record = finished
    again = run(config, out, progress=False, force=True)
    assert not again.dense_reused  # this configuration trained it
    assert again.model_dump(exclude=TIMED) == record.model_dump(exclude=TIMED)
    assert again.seconds["search"] != record.seconds["search"]


def test_the_dense_network_is_shared_and_counted(finished):
    out, _, record = finished
    dense = list((out / "dense").rglob("model.safetensors"))
    stamp = dense[0].stat().st_mtime_ns
    other = run(tiny_run(method="uniform"), out, progress=False)
    assert list((out / "dense").rglob("model.safetensors")) == dense
    assert dense[0].stat().st_mtime_ns == stamp
    assert (record.dense_reused, other.dense_reused) == (False, True)
    assert other.seconds["dense"] == record.seconds["dense"] > 0
    assert other.scores.dense == record.scores.dense
    assert len({round(g.keep_ratio, 9) for g in other.groups}) == 1


def test_from_random_weights(tmp_path):
    search = SearchConfig(
        train=TrainConfig(epochs=2, lr=0.1, batch_size=256, **PLAIN), warmup_epochs=1
    )
    config = tiny_run(preset=tiny_preset(dense=None, search=search), resource="params")
    record = run(config, tmp_path, progress=False)
    assert (record.scores.dense, record.seconds["dense"], record.epochs["dense"]) == (None, 0, 0)
    assert not (tmp_path / "dense").exists()
    assert record.costs["params"].counted <= 0.5 * record.costs["params"].dense
