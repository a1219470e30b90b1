"""A run: configuration, phases, record; and one that is killed ends as if it were not."""

import errno
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from problems_runs import TASK, digits, fresh, graph8, some_record, tiny_preset, tiny_run
from processes import processes
from safetensors.torch import load_file

import dsa_core as dsa
from dsa_core.budget import Budget
from dsa_core.errors import BudgetError, ConfigError, SurgeryError, TrainingError
from dsa_core.lab.batch.state import epochs_in
from dsa_core.lab.machine import git, versions
from dsa_core.lab.record import Record
from dsa_core.lab.record_files import FILE, find_records, read_record
from dsa_core.lab.runs import PRESETS, RunConfig, configure, dense, presets, run
from dsa_core.lab.runs import onnx as runs_onnx
from dsa_core.lab.runs.changes import changed
from dsa_core.lab.runs.dense import keep_dense, read_dense
from dsa_core.lab.runs.history import search_record
from dsa_core.lab.runs.start import try_training
from dsa_core.masks import top_channels
from dsa_core.surgery import load
from dsa_core.training import evaluate
from dsa_core.training.processes import ProcessGroup

RECORDS = Path(__file__).parents[1] / "data" / "records"
TIMED = {  # what may differ between two runs of one configuration
    **dict.fromkeys(("seconds", "processor_seconds", "latency", "git_commit"), True),
    "search": {"epoch_seconds"},
}


def test_hashes_and_folders_are_those_of_shipped_records():
    runs = find_records(RECORDS / "transformer_digits.jsonl")
    found = [(r, RunConfig.model_validate(r.config)) for r in runs]
    assert [(c.hash, c.series) for _, c in found] == [(r.config_hash, r.series) for r in runs]
    record, config = next((r, c) for r, c in found if r.method == "dsa" and r.seed == 0)
    assert config.folder == f"vit_digits-digits-dsa-macs0.5-seed0-{record.config_hash[:6]}"
    assert config == configure("vit-quick")
    one, other = (configure("quick", floors=f) for f in ({"a": 1, "b": 0.2}, {"b": 0.2, "a": 1}))
    assert one.hash == other.hash


def test_the_hash_knows_every_setting():
    one = configure("quick")
    given = [
        {"seed": 1},
        {"ratio": 0.51},
        {"resource": "params"},
        {"method": "uniform"},
        {"divisor": 8},
        {"floors": {"*": 0.1}},
        {"also": {"params": 0.4}},
        {"changes": {"norm_batches": "21"}},
        {"changes": {"search.dcss.firmness": "1"}},
        {"changes": {"search.dtp.plan": "closed"}},
        {"changes": {"cut.weights": "dense"}},
        {"changes": {"dense_split": "true"}},
    ]
    others = [configure("quick", **each) for each in given]
    assert len({c.hash for c in [one, *others]}) == 1 + len(others)
    assert [c.series == one.series for c in others] == [True] + [False] * 11
    assert len({c.folder for c in [one, *others]}) == 1 + len(others)
    assert all(RunConfig.model_validate_json(c.model_dump_json()) == c for c in (one, *others[-3:]))
    # hashes are as they were before these could be set
    assert not {"cut", "dense_split"} & one.preset.model_dump().keys()
    assert not {"dcss", "dtp"} & one.preset.search.model_dump().keys()
    assert '"settings":null' in one.preset.search.model_dump_json()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_read_back_and_fix_number_format_and_memory_order(name):
    config = configure(name)
    assert RunConfig.model_validate_json(config.model_dump_json()).hash == config.hash
    assert config.model == config.preset.model
    preset = config.preset
    for train in (preset.dense, preset.search.train, preset.fine_tune):
        if train is not None:
            assert train.model_fields_set >= {"precision", "channels_last"}
            assert "auto" not in (train.precision, train.channels_last)


def test_a_folder_name_has_nothing_a_path_would_trip_over():
    config = tiny_run(model="my.nets:make/it", dataset="folder:/data/flowers")
    assert "/" not in config.folder + config.dense_folder
    assert ":" not in config.folder


def test_a_budget_of_several_resources():
    one = configure("tiny", ratio=0.5, also={"params": 0.3})
    other = configure("tiny", resource="params", ratio=0.3, also={"macs": 0.5})
    assert one == other  # whatever comes first
    assert list(one.asked.items()) == [("macs", 0.5), ("params", 0.3)]
    assert "-dsa-macs0.5-params0.3-seed0-" in one.folder
    assert RunConfig.model_validate_json(one.model_dump_json()) == one
    assert one.budget == Budget(macs=0.5, params=0.3)
    with pytest.raises(ConfigError, match="macs is limited already"):
        configure("tiny", also={"macs": 0.4})
    with pytest.raises(ConfigError, match=r"also\.params: .* got 3"):
        configure("tiny", also={"params": 3})
    with pytest.raises(BudgetError, match="such a budget needs one"):
        configure("tiny", also={"latency": 0.5})


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, RunConfig, Record]:
    out, config = tmp_path_factory.mktemp("runs"), tiny_run()
    return out, config, run(config, out, progress=False)


def test_the_folder_of_a_run(finished):
    out, config, record = finished
    folder = out / config.folder
    files = {".lock", "config.json", "record.json", "history.json", "checkpoints", "pruned"}
    assert {p.name for p in folder.iterdir()} == files
    assert RunConfig.model_validate_json((folder / "config.json").read_text()) == config
    assert read_record(folder / FILE) == record
    assert epochs_in(folder)["epochs_done"] == epochs_in(folder)["epochs"] > 0
    history = json.loads((folder / "history.json").read_text())
    assert history["groups"] == [g.name for g in record.groups]
    assert history["updates"]["step"] == [0, 2, 4, 6, 8]  # the start, every second of eight
    assert {len(v) for v in history["updates"].values()} == {5}
    assert record.search == search_record(history, graph8())
    assert record.config == json.loads((folder / "config.json").read_text())


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
    score = evaluate(pruned, digits().batches("test", batch_size=500), TASK).score
    assert score == pytest.approx(record.scores.fine_tuned, abs=1e-6)
    assert record.epochs == {"dense": 2, "search": 2, "fine_tune": 2}
    assert all(s > 0 for s in record.seconds.values())
    written = json.loads((out / config.folder / "pruned" / "architecture.json").read_text())
    assert [g.kept for g in record.groups] == [len(g["kept"]) for g in written["groups"].values()]
    assert record.versions == versions()
    assert record.latency["dense"].batch == 128


def test_a_finished_run_is_read_not_run(finished, capsys):
    out, config, record = finished
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    assert run(config, out) == record
    assert "done before" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()} == before


def test_the_dense_network_says_how_it_was_made_and_is_read_back_whole(finished, tmp_path):
    out, config, record = finished
    folder = Path(shutil.copytree(next((out / "dense").glob("*")), tmp_path / "dense"))
    facts = json.loads((folder / "dense.json").read_text())
    wanted = record.model_dump(include={"model", "dataset", "seed", "score_name", "git_commit"})
    wanted |= record.model_dump(include={"versions", "device"})
    wanted |= {"score": record.scores.dense, "precision": "fp32", "trained_by": config.hash}
    assert facts == facts | wanted
    assert facts["epochs"] == len(facts["history"]) == facts["config"]["epochs"]
    content = (folder / "model.safetensors").read_bytes()
    assert facts["sha256"] == hashlib.sha256(content).hexdigest()
    model = fresh(1)
    assert read_dense(model, folder) == facts
    (folder / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ConfigError, match=r"model\.safetensors was changed .*Remove the folder"):
        read_dense(model, folder)
    old = {k: v for k, v in facts.items() if k != "sha256"}  # as it was before the digest
    (folder / "dense.json").write_text(json.dumps(old))
    assert read_dense(model, folder) == old
    for junk in ("[1]", "{}", "{"):
        (folder / "dense.json").write_text(junk)
        with pytest.raises(ConfigError, match="cannot be read"):
            read_dense(model, folder)


def test_the_dense_network_may_train_on_the_weights_part_alone(tmp_path, monkeypatch):
    given, config = [], tiny_run(preset=tiny_preset(dense_split=True))

    def first_epoch(model, batches, *args, **kwargs):
        given.append(torch.cat([x for x, _ in batches.epoch(0)]))
        raise KeyboardInterrupt

    monkeypatch.setattr(dense, "train", first_epoch)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path, progress=False)
    weights, _ = dsa.data.split(1437, 0.8, seed=0)
    assert given[0].shape[0] == len(weights) // 256 * 256
    assert config.dense_folder != tiny_run().dense_folder
    part = tiny_preset(dense_split=True, weights_fraction=0.7)
    assert config.dense_folder != tiny_run(preset=part).dense_folder
    for none in ({"weights": "0" * 64}, {"preset": tiny_preset(dense_split=True, dense=None)}):
        with pytest.raises(ValueError, match="dense_split: this run trains no dense network"):
            tiny_run(**{"preset": part, **none})


def test_a_dense_network_of_other_data_is_not_taken(finished, tmp_path):
    names = [
        tiny_run(dataset=f"folder:{name}").dense_folder for name in ("imgs-1", "imgs_1", "imgs 1")
    ]
    assert len({*names}) == 3
    out, config, _ = finished
    other = Path(shutil.copytree(out, tmp_path / "other"))
    path = next((other / "dense").glob("*/dense.json"))
    facts = json.loads(path.read_text())
    for part in ("data", "test data"):
        path.write_text(json.dumps(facts | {part: "0" * 64}))
        for again in (config, tiny_run(method="uniform")):
            with pytest.raises(ConfigError, match="is of other data than digits is now"):
                run(again, other, progress=False)
    del facts["data"], facts["test data"]  # as older versions wrote it
    path.write_text(json.dumps(facts))
    assert run(config, other, progress=False).dense_reused is False


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


def test_a_run_from_random_weights_under_two_limits_meets_both(finished, tmp_path):
    preset = changed(tiny_preset(dense=None), {"search.warmup_epochs": "1"})
    record = run(tiny_run(preset=preset, also={"params": 0.3}), tmp_path, progress=False)
    assert (record.scores.dense, record.seconds["dense"], record.epochs["dense"]) == (None, 0, 0)
    assert not (tmp_path / "dense").exists()
    assert [record.costs[r].asked_ratio for r in ("macs", "params")] == [0.5, 0.3]
    assert record.costs["macs"].ratio <= 0.5
    one = finished[-1].costs["params"]  # MACs alone do not give it
    assert record.costs["params"].ratio <= 0.3 < one.ratio
    assert record.budget_met


FAIR = {  # a rival that spends nothing on a search
    "search.train.epochs": "0",
    "cut.weights": "dense",
    "cut.rank": "l2",
    "fine_tune.epochs": "0",
}


@pytest.mark.parametrize("images", [0, 100])
def test_the_dense_network_is_cut_without_a_search(images, tmp_path):
    preset = changed(tiny_preset(), FAIR | {"cut.reconstruct": str(images)})
    record = run(tiny_run(method="uniform", preset=preset), tmp_path, progress=False)
    assert (record.epochs["search"], record.epochs["fine_tune"]) == (0, 0)
    assert record.scores.pruned == record.scores.fine_tuned
    assert record.notes["cut_weights"] == "dense"
    assert record.notes.get("cut_reconstruct", 0) == images
    assert record.costs["macs"].relaxed_ratio == pytest.approx(0.5)
    assert record.processor_seconds["search"] > 0
    assert record.budget_met
    dense = fresh()
    read_dense(dense, next(tmp_path.glob("dense/*")))
    graph = dsa.trace(dense, torch.zeros(1, 1, 8, 8))
    counts = torch.tensor([group.kept for group in record.groups])
    keep = top_channels(dsa.importance(dense, graph, "l2"), counts, graph)
    found = load(next(tmp_path.glob("resnet8-*/pruned")), dense).state_dict()
    wanted = dsa.prune(dense, graph, keep).state_dict()
    refitted = {name for name in wanted if not torch.equal(found[name], wanted[name])}
    weights = {name for name in wanted if name.endswith("weight") and "bn" not in name}
    assert bool(refitted & weights) == (images > 0)
    assert any(name.endswith("running_var") for name in refitted) == (images == 0)


def test_git_outside_of_a_tree():
    assert git("no-such-command") is None


RUN = importlib.import_module("dsa_core.lab.runs.run")


@pytest.fixture
def phases(monkeypatch):
    """Put something else in the place of all phases, and give the record that a run writes."""

    def put(act):
        def fake(context, model, graph):
            act(context)
            return some_record(config_hash=context.config.hash)

        monkeypatch.setattr(RUN, "all_phases", fake)

    return put


def test_the_second_process_in_a_folder_says_so_and_stops(phases, tmp_path):
    config = tiny_run()

    def second(context):
        told = f"another process is working in {context.folder}: wait until it ends"
        with pytest.raises(ConfigError, match=told):
            run(config, tmp_path, progress=False)
        run(tiny_run(seed=1), tmp_path, progress=False)  # beside it there is room

    phases(lambda context: None if context.config.seed else second(context))
    run(config, tmp_path, progress=False)
    assert len(list(tmp_path.rglob(FILE))) == 2


def test_advice_on_the_format_is_printed_once_and_sought_only_where_it_is_shown(
    phases, tmp_path, monkeypatch, capsys
):
    phases(lambda context: None)
    monkeypatch.setattr(RUN, "slow_format", lambda *_: "take fp32")
    run(tiny_run(), tmp_path / "shown")
    assert capsys.readouterr().out.count("take fp32") == 1
    monkeypatch.setattr(RUN, "slow_format", lambda *_: pytest.fail("it takes time"))
    run(tiny_run(), tmp_path / "quiet", progress=False)


def test_a_folder_that_was_removed_meanwhile(phases, tmp_path):
    phases(lambda context: shutil.rmtree(context.folder))
    with pytest.raises(TrainingError, match=r"resnet8.* was removed or emptied during the run"):
        run(tiny_run(), tmp_path, progress=False)
    assert not list(tmp_path.rglob(FILE))


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda text: text.replace('"seed": 0', '"seed": 5'), "its seed differs from what was"),
        (lambda text: text.replace('"method"', '"methud"'), "damaged or edited .*methud"),
        (lambda text: text[:100], "damaged or edited"),
        (lambda text: text.replace('"norm_batches": 2', '"norm_batches": 3'), "its preset differs"),
    ],
)
def test_an_edited_configuration_is_not_passed_over(edit, told, phases, tmp_path):
    config = tiny_run()
    phases(lambda context: None)
    run(config, tmp_path, progress=False)
    path = tmp_path / config.folder / "config.json"
    path.write_text(edit(path.read_text()))
    for _ in range(2):  # of a run that is done, and of one that goes on
        with pytest.raises(ConfigError, match=rf"config\.json .*{told}.*Remove the file"):
            run(config, tmp_path, progress=False)
        path.with_name(FILE).unlink(missing_ok=True)
    run(config, tmp_path, progress=False, force=True)
    assert RunConfig.model_validate_json(path.read_text()) == config


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (errno.ENOSPC, TrainingError, r"resnet8.*: No space .*: [\d,]+ bytes are free.*make room"),
        (errno.EACCES, PermissionError, "Permission denied"),  # any other stays as it is
    ],
)
def test_a_full_disk_is_told_with_the_folder(number, error, words, phases, tmp_path):
    def fail(_):
        raise OSError(number, os.strerror(number))

    phases(fail)
    with pytest.raises(error, match=words):
        run(tiny_run(), tmp_path, progress=False)


def long_preset():
    phases, longer = ("dense", "search.train", "fine_tune"), {"epochs": "5", "batch_size": "64"}
    changes = {f"{phase}.{name}": value for phase in phases for name, value in longer.items()}
    return changed(tiny_preset(), changes)


def run_command_line(out: str) -> None:
    """As `dsa run --preset long --out OUT` would, with its messages in a file."""
    torch.set_num_threads(1)
    presets.PRESETS["long"] = long_preset
    log = os.open(f"{out}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["dsa", "run", "--preset", "long", "--out", out, "--quiet"]
    from dsa_core.lab.cli import main

    main()


def start_process(out: Path):
    process = processes().Process(target=run_command_line, args=(str(out),))
    process.start()
    return process


def wait_for(out: Path, pattern: str, epochs: int) -> None:
    limit = time.monotonic() + LIMIT
    while not any(json.loads(p.read_text())["done"] >= epochs for p in out.glob(pattern)):
        assert time.monotonic() < limit, f"no {pattern} after {epochs} epochs"
        time.sleep(0.03)


LIMIT = 900  # seconds until a process counts as lost; on an idle core each takes ten
STOPS = (  # a checkpoint, after how many epochs, by what
    ("dense/*/train.epochs.json", 1, signal.SIGINT),
    ("dense/*/train.epochs.json", 2, signal.SIGKILL),
    ("resnet8*/checkpoints/search.epochs.json", 1, signal.SIGINT),
    ("resnet8*/checkpoints/search.epochs.json", 2, signal.SIGKILL),
    ("resnet8*/checkpoints/fine_tune.epochs.json", 1, signal.SIGKILL),
)


@pytest.mark.slow
@pytest.mark.fuzz
@pytest.mark.parametrize("again", range(max(1, settings.default.max_examples // 300)))
def test_stopped_in_every_phase_changes_no_bit(tmp_path, again):
    whole, stopped, moment = tmp_path / "whole", tmp_path / "stopped", random.Random()
    for pattern, epochs, how in STOPS:
        process = start_process(stopped)
        wait_for(stopped, pattern, epochs)
        time.sleep(moment.uniform(0.0, 0.2) if how == signal.SIGKILL else 0.0)
        os.kill(process.pid, how)
        process.join(60)
        assert process.exitcode == {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130}[how]
    log = (tmp_path / "stopped.log").read_text()
    assert log.count("training interrupted") == 2  # a search is a training with a Pruner attached
    assert log.count("Give the same `dsa run` command again to resume") == 2
    assert "Traceback" not in log
    for out in (whole, stopped):
        last = start_process(out)
        last.join(LIMIT)
        assert last.exitcode == 0
        assert len(list(out.glob("allocation-*.png"))) == 1
    folders = [next(out.glob("resnet8*")) for out in (whole, stopped)]
    records = [read_record(folder / FILE) for folder in folders]
    a, b = (r.model_dump(exclude=TIMED) for r in records)
    assert a == b
    assert [sorted(r.seconds) for r in records] == [["dense", "fine_tune", "search"]] * 2
    weights = [load_file(folder / "pruned" / "model.safetensors") for folder in folders]
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    histories = [json.loads((folder / "history.json").read_text()) for folder in folders]
    assert histories[0]["updates"] == histories[1]["updates"]


def test_a_run_writes_onnx_on_request_also_when_it_was_complete(tmp_path):
    pytest.importorskip("onnxruntime")
    config = configure("tiny", method="uniform")
    before = run(config, tmp_path, progress=False)
    assert before.onnx is None
    after = run(config, tmp_path, progress=False, onnx=True)
    assert after.model_copy(update={"onnx": None}) == before
    assert after.onnx is not None
    assert after.onnx.max_abs_diff < 1e-4
    path = tmp_path / config.folder / after.onnx.file
    assert path.stat().st_size == pytest.approx(1e6 * after.onnx.megabytes)
    assert read_record(path.with_name("record.json")) == after
    both = run(config, tmp_path, progress=False, int8=True)
    assert both.onnx is not None
    assert both.onnx.model_copy(update={"int8": None}) == after.onnx
    assert both.onnx.int8 is not None
    assert both.onnx.int8.megabytes < after.onnx.megabytes
    assert both.onnx.int8.max_abs_diff > after.onnx.max_abs_diff
    assert both.onnx.int8.score == pytest.approx(both.scores.fine_tuned, abs=0.03)
    assert run(config, tmp_path, progress=False, int8=True) == both


def test_tied_weights_of_a_dense_network_are_kept(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    model[1].weight = model[0].weight
    keep_dense(model, tmp_path, {})
    (file,) = tmp_path.glob("*.safetensors")
    torch.testing.assert_close(load_file(file), dict(model.state_dict()), rtol=0, atol=0)


def test_int8_of_several_processes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(runs_onnx, "process_group", lambda: ProcessGroup(0, 2))
    with pytest.raises(ConfigError, match=r"int8: .* one process"):
        run(configure("tiny"), tmp_path, progress=False, int8=True)
    assert not list(tmp_path.iterdir())


def test_settings_are_changed_by_their_path() -> None:
    changes = {"search.ratio_every": "3", "search.train.lr": "1e-2", "search.ssl.factor": "4"}
    config, plain = configure("tiny", changes=changes), configure("tiny")
    search = config.preset.search
    assert (search.ratio_every, search.train.lr, search.ssl.factor) == (3, 0.01, 4)
    assert config.preset.fine_tune == plain.preset.fine_tune
    words = "tiny search.ratio_every=3 search.ssl.factor=4 search.train.lr=1e-2"
    assert config.preset_name == words
    assert config.hash != plain.hash
    assert configure("tiny", changes={}) == plain


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("serch.ratio_evry", "3", "'serch.ratio_evry': did you mean 'search.ratio_every'"),
        ("search.ratio_every.x", "3", "ratio_every holds no settings"),
        ("search.ratio_every", "0", "setting search.ratio_every: .* got 0"),
        ("search.ssl.faktor", "2", "no setting 'search.ssl.faktor': did you mean 'search.ssl.fac"),
        ("Epochs", "3", "did you mean 'dense.epochs' or 'search.train.epochs' or 'fine_tune.ep"),
        ("search.settings.max_ration", "3", "did you mean 'search.settings.max_ratio'"),
        ("zzz", "3", "no setting 'zzz'. config.json of a run"),
        ("search", "3", "setting search: "),
        ("search.ssl", "{colour: 3}", "setting search.ssl.colour: Extra inputs"),
        ("search.train.lr", "[1", "is not valid YAML"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(path: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configure("tiny", changes={path: value})


def test_updates_have_batches_of_their_own_size(tmp_path: Path) -> None:
    short = {"search.train.epochs": "1", "search.estimator": "mixed"}  # by held-out batches
    configs = [
        configure("tiny", changes={"search.ratio_batch_size": n, **short}) for n in ("64", "16")
    ]
    whole, quarter = (run(c, tmp_path, progress=False) for c in configs)
    assert whole.groups != quarter.groups or whole.scores != quarter.scores


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"search.train.epochs": "0"}, "steps: wanted"),
        ({"search.warmup_epochs": "9"}, "search.warmup_epochs=9 leaves no epoch"),
        ({"method": "amc", "search.warmup_epochs": "1"}, "amc starts from a trained network"),
        ({"dataset": "photo_patches", "model": "edsr_small", "fine_tune.label_smoothing": "0.1"},
         "has no label smoothing"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_before_anything_is_trained(tmp_path, changes, words):
    named = {k: changes.pop(k) for k in ("method", "dataset", "model") if k in changes}
    with pytest.raises(ConfigError, match=words):
        run(configure("tiny", changes=changes, **named), tmp_path, progress=False)
    assert not list(tmp_path.rglob("*.safetensors"))


class Auxiliary(torch.nn.Module):
    """A head that is read in training only, which tracing cannot see."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Conv2d(1, 8, 3), torch.nn.Conv2d(8, 8, 3)
        self.head, self.aside = torch.nn.Linear(8, 10), torch.nn.Linear(8, 10)

    def forward(self, x):
        a = self.a(x).relu()
        y = self.head(self.b(a).relu().mean((2, 3)))
        return y + self.aside(a.mean((2, 3))) if self.training else y


def test_a_group_that_only_training_reads_can_be_kept_by_a_floor(tmp_path):
    config, model = tiny_run(floors={"a": 1.0}), Auxiliary()
    example = torch.zeros(1, 1, 8, 8)
    graph = dsa.trace(model, example)
    try_training(config, model, graph, example)
    told = r"cannot run in training mode: .*never reads: .*aside.*by a floor of 1"
    with pytest.raises(SurgeryError, match=told):
        run(tiny_run(model=f"{__name__}:Auxiliary"), tmp_path, progress=False)
    assert not (tmp_path / "dense").exists()  # nothing is trained
