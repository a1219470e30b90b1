"""Runs of the other two tasks, from a configuration to a record and a table."""

from pathlib import Path

import pytest
import torch
from problems_runs import PLAIN, some_record, tiny_preset, tiny_run
from torch import nn

from dsa_core.errors import ConfigError
from dsa_core.lab import data, models, report
from dsa_core.lab.check import check, compare
from dsa_core.lab.data import datasets
from dsa_core.lab.plots.allocation import label
from dsa_core.lab.record import Record
from dsa_core.lab.record_files import FILE, read_record
from dsa_core.lab.runs import RunConfig, run
from dsa_core.lab.runs.context import RunContext
from dsa_core.lab.runs.start import start
from dsa_core.methods import SearchConfig
from dsa_core.surgery import load
from dsa_core.surgery.verify import random_channels, randomise
from dsa_core.tracing import trace
from dsa_core.training import TrainConfig, evaluate

MODELS = {"digit_scenes": "segnet_small", "photo_patches": "edsr_small"}


def few(name: str) -> data.AnyDataset:
    """A part of the examples, so that a run takes seconds."""
    whole = data.load(name)
    if isinstance(whole, data.UpscaleDataset):
        small = tuple(p[:, :40, :44] for p in whole.images)
        return data.UpscaleDataset(name, whole.num_classes, whole.patches[::4], small)
    return data.Dataset(
        name, whole.num_classes, whole.train_images[:96], whole.train_labels[:96],
        whole.test_images[:40], whole.test_labels[:40],
        mean=whole.mean, std=whole.std, augment=whole.augment, task=whole.task, kind=whole.kind,
    )  # fmt: skip


def config_of(dataset: str) -> RunConfig:
    train = TrainConfig(epochs=1, lr=0.02, batch_size=16, **PLAIN)
    where = {"model": MODELS[dataset], "dataset": dataset}
    preset = tiny_preset(dense=train, search=SearchConfig(train=train), fine_tune=train, **where)
    return tiny_run(preset=preset, **where)


@pytest.fixture(scope="module", params=MODELS)
def finished(request, tmp_path_factory) -> tuple[Path, RunConfig, Record, data.AnyDataset]:
    out, config = tmp_path_factory.mktemp("runs"), config_of(request.param)
    dataset = few(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(datasets.LOADERS, request.param, lambda *_, **__: dataset)
        record = run(config, out, progress=False)
    return out, config, record, dataset


def test_the_record_is_of_the_task(finished):
    out, config, record, dataset = finished
    task = dataset.task
    assert (record.score_name, record.score_unit) == (task.judged_by, task.unit)
    pruned = load(out / config.folder / "pruned")
    found = evaluate(pruned, dataset.batches("test", batch_size=500), task)
    assert record.scores.fine_tuned == pytest.approx(found.score, abs=1e-4)
    assert list(record.extra_scores) == list(found.extra) != []
    for name, states in record.extra_scores.items():
        assert list(states) == ["dense", "pruned", "fine_tuned"]
        assert states["fine_tuned"] == pytest.approx(found.extra[name], abs=1e-4)
    macs = record.costs["macs"]
    assert macs.counted == macs.whole <= 0.5 * macs.dense
    assert read_record(out / config.folder / FILE) == record


def test_a_table_shows_the_unit(finished):
    _, _, record, _ = finished
    head, row = report.cells([record])
    shown = dict(zip(head, row, strict=True))
    factor = 100 if record.score_unit == "%" else 1
    assert shown["after"] == f"{factor * record.scores.fine_tuned:.2f}"
    assert shown["dense"] == f"{factor * record.scores.dense:.2f}"
    assert f"test {record.score_name} in {record.score_unit} before" in report.caption([record])
    assert label(record).endswith(f"{shown['after']} {record.score_unit} {record.score_name}")


def test_old_records_are_in_percent():
    old = some_record().model_dump(exclude={"score_unit", "extra_scores"})
    assert Record.model_validate(old) == some_record(score_unit="%", extra_scores={})


@pytest.mark.parametrize(
    ("model", "dataset", "words"),
    [
        ("segnet_small", "digits", "not for classification.*returns 1x10x8x8, the targets are 1"),
        ("resnet8", "digit_scenes", "not for segmentation.*returns 1x11, the targets are 1x32x32"),
        ("resnet20", "photo_patches", "not for super-resolution.*returns 1x3, the targets"),
    ],
)
def test_a_network_of_another_task(model, dataset, words):
    loaded = data.load(dataset)
    x, _ = next(loaded.batches("train", batch_size=1).epoch(0))
    config = tiny_run(model=model, dataset=dataset)
    with pytest.raises(ConfigError, match=words):
        start(config, loaded, torch.zeros_like(x))


def test_large_images_are_evaluated_in_smaller_batches():
    sizes = {}
    for side in (8, 64, 128, 4000):
        images = torch.zeros(2, 1, side, side, dtype=torch.uint8)
        labels = torch.zeros(2, dtype=torch.int64)
        dataset = data.Dataset(
            "d", 2, images, labels, images, labels, mean=(0.0,), std=(1.0,), augment="none"
        )
        context = RunContext(tiny_run(), Path(), dataset, torch.device("cpu"), progress=False)
        sizes[side] = context.eval_batch
        assert context.example.shape == (1, 1, side, side)
    assert sizes == {8: 500, 64: 500, 128: 125, 4000: 1}


@pytest.mark.parametrize("name", ["segnet_small", "edsr_small", "lraspp_mobilenet_v3_large"])
def test_masked_is_pruned(name):
    found = check(name)
    assert found.status == "ok", found.reason
    assert found.groups >= 6


@pytest.mark.parametrize("name", ["deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"])
def test_torchvision_segmenters(name):
    """Our wrapper gives torchvision's own map, takes its weights, and masked == pruned."""
    from torchvision.models import get_model

    torch.manual_seed(0)
    theirs = get_model(name, weights=None, weights_backbone=None, num_classes=5).double().eval()
    ours = models.build(name, num_classes=5).double().eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 50, 70, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x)["out"], rtol=0, atol=0)
    graph = trace(ours, x)
    assert not graph.unknown_ops
    assert list(graph.frozen) == ["network output"]
    randomise(ours)
    row = compare(name, ours, graph, x, random_channels(graph, 0.4, 1), files=False)
    assert row.status == "ok", row.reason


def test_edsr_starts_as_bicubic_interpolation():
    torch.manual_seed(0)
    model = models.build("edsr_small")
    x = torch.rand(2, 3, 9, 11)
    wanted = nn.functional.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False)
    torch.testing.assert_close(model(x), wanted)
    assert model.body_end.weight.std() > 0  # Kaiming's start would be far larger
    assert model.body_end.weight.std() < 0.1


def test_residual_block_and_pixel_shuffle_by_hand():
    block = models.edsr.ResidualBlock(4, scale=0.1)
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(block(x), x + 0.1 * block.conv2(torch.relu(block.conv1(x))))
    groups = {g.name: g.size for g in trace(models.build("edsr_small"), x[:, :3]).prunable}
    # head and all that is added to it; the inner convolutions; blocks of four before the shuffle
    inner = {f"body.{i}.conv1": 32 for i in range(4)}
    assert groups == {"head": 32, **inner, "widen": 32}


def test_segnet_takes_any_size():
    model = models.build("segnet_small", num_classes=3).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 1, 19, 30)).shape == (1, 3, 19, 30)
