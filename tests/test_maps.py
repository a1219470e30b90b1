"""Images with label maps: augmented alike, composed of digits, read in VOC's layout."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dsa_core.errors import ConfigError, DataError
from dsa_core.lab import data
from dsa_core.lab.data import MAP_AUGMENTATIONS, VOID, MapBatches, augment_maps
from dsa_core.lab.data.maps import MapAugmentation
from dsa_core.lab.data.scenes import compose
from dsa_core.lab.data.voc import mean_and_std

CAMVID = data.data_root() / "voc"


@cache
def scenes() -> data.Dataset:
    return data.load("digit_scenes")


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def alike(n: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of 24x36 whose labels are 1 where the shade is 250, and 0 where it is 100."""
    coarse = torch.randint(0, 2, (n, 4, 4), generator=draw(5))
    labels = coarse.repeat_interleave(6, 1).repeat_interleave(9, 2)
    return (100 + 150 * labels).to(torch.uint8).unsqueeze(1), labels.to(torch.uint8)


@pytest.mark.parametrize(
    "how",
    [
        MapAugmentation(flip=True),
        MapAugmentation(shift=5),
        MapAugmentation(zoom=(0.6, 0.8)),
        MapAugmentation(zoom=(1.2, 2.0), flip=True),
        *MAP_AUGMENTATIONS.values(),
    ],
)
def test_labels_follow_their_pixels(how):
    """Where a pixel is not a mixture of two, its shade and its label say the same."""
    images, labels = alike()
    x, y = augment_maps(images, labels, how, draw())
    assert y.dtype == torch.uint8
    shade = x[:, 0].float()
    for label, wanted in ((0, 100.0), (1, 250.0), (VOID, 0.0)):
        plain = (shade - wanted).abs() < 1e-2
        assert (y[plain] == label).all()
    assert set(y.unique().tolist()) <= {0, 1, VOID}
    pure = sum(((shade - s).abs() < 1e-2).float().mean() for s in (0, 100, 250))
    assert pure > 0.4  # the comparison was of many pixels


def test_shift_by_whole_pixels_is_exact():
    images, labels = alike()
    x, y = augment_maps(images, labels, MapAugmentation(shift=3), draw(1))
    padded = np.pad(images[:, 0].numpy(), ((0, 0), (3, 3), (3, 3)))
    marked = np.pad(labels.numpy(), ((0, 0), (3, 3), (3, 3)), constant_values=VOID)
    seen = set()
    for n in range(len(images)):
        windows = {(r, c): np.s_[n, r : r + 24, c : c + 36] for r in range(7) for c in range(7)}
        ((place, window),) = (
            item for item in windows.items() if np.allclose(padded[item[1]], x[n, 0], atol=1e-2)
        )
        np.testing.assert_array_equal(marked[window], y[n])
        seen.add(place)
    assert len(seen) > 15


def test_flip_is_of_half_the_images():
    images, labels = alike(200)
    x, y = augment_maps(images, labels, MapAugmentation(flip=True), draw())
    mirrored = (y == labels.flip(2)).flatten(1).all(1)
    assert (mirrored | (y == labels).flatten(1).all(1)).all()
    assert 70 < int(mirrored.sum()) < 130
    torch.testing.assert_close(x[mirrored], images[mirrored].flip(3).float(), atol=1e-3, rtol=0)


def test_zoom_keeps_the_image_or_the_window_whole():
    """Smaller: all of the image is inside, so no void touches all borders alike; larger: none."""
    images, labels = torch.full((64, 1, 20, 30), 200, dtype=torch.uint8), torch.zeros(64, 20, 30)
    labels = labels.to(torch.uint8)
    _, large = augment_maps(images, labels, MapAugmentation(zoom=(1.0, 3.0)), draw())
    assert not (large == VOID).any()
    _, small = augment_maps(images, labels, MapAugmentation(zoom=(0.5, 0.5)), draw())
    inside = (small == 0).sum((1, 2))
    assert ((inside - 150).abs() <= 25).all()  # a quarter of 600, to one row and column
    columns = (small == 0).any(1).float().argmax(1)
    assert columns.min() < 4
    assert columns.max() > 11


def test_batches_of_maps():
    images, labels = alike(10)
    both = {"batch_size": 4, "mean": (0.0,), "std": (1 / 255,), "seed": 3}
    batches = MapBatches(images, labels, **both, augment="zoom_crop_flip")
    x, y = next(batches.epoch(2, start=1))
    chosen = batches.order(2)[4:8]
    how = MAP_AUGMENTATIONS["zoom_crop_flip"]
    wanted = augment_maps(images[chosen], labels[chosen], how, data.generator(3, "augment", 2, 1))
    torch.testing.assert_close(x, wanted[0])
    assert torch.equal(y, wanted[1].long())
    assert y.dtype == torch.int64
    same = augment_maps(images, labels, MAP_AUGMENTATIONS["none"], draw())
    assert same[0] is images
    assert same[1] is labels
    with pytest.raises(ConfigError, match=r"label maps must be one of none, .*, got 'crop_flip'"):
        MapBatches(images, labels, **both, augment="crop_flip")


def test_scenes():
    dataset = scenes()
    assert dataset.train_images.shape == (1200, 1, 32, 32)
    assert dataset.train_labels.shape == (1200, 32, 32)
    assert (dataset.count("train"), dataset.count("test"), dataset.num_classes) == (1200, 300, 11)
    for labels in (dataset.train_labels, dataset.test_labels):
        counts = torch.bincount(labels.flatten().int(), minlength=256)
        assert counts.nonzero().flatten().tolist() == [*range(11), VOID]
        share = counts / counts.sum()
        assert 0.6 < share[0] < 0.9
        assert share[VOID] < 0.12
        assert share[1:11].max() < 2 * share[1:11].min()
    values = dataset.train_images.float().flatten() / 255
    assert dataset.mean == (pytest.approx(float(values.mean()), abs=1e-3),)
    assert dataset.std == (pytest.approx(float(values.std()), abs=1e-3),)


def test_scenes_are_always_the_same_and_parts_differ():
    digits = data.load("digits").train_images, data.load("digits").train_labels
    again = compose("train", *digits)
    assert torch.equal(again[0], scenes().train_images)
    assert torch.equal(again[1], scenes().train_labels)
    assert not torch.equal(compose("test", *digits)[0], again[0][:300])


def test_a_pixel_is_named_after_the_digit_that_made_it():
    """One digit to choose from, white on black: every labelled pixel is bright or void or paper."""
    ones = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    ones[:, :, :, 3:5] = 255
    images, labels = compose("train", ones, torch.tensor([6]))
    assert set(labels.unique().tolist()) == {0, 7, VOID}
    bright = images[:, 0].float() / 255
    assert bright[labels == 7].mean() > bright[labels == VOID].mean() > bright[labels == 0].mean()
    assert bright[labels == 7].mean() > 0.6
    assert bright[labels == 0].mean() < 0.3
    counts = (labels == 7).flatten(1).sum(1)
    assert counts.min() > 0  # at least two digits a scene, wholly inside


def test_every_number_of_digits_is_as_frequent(monkeypatch):
    """The k-th digit of a scene inks row k alone: the labels then count the digits."""
    from dsa_core.lab.data import scenes as module

    calls = []

    def marked(inks, labels, n, draw):
        ink = torch.zeros(n, 32, 32)
        ink[:, len(calls)] = 1
        calls.append(n)
        return ink, torch.zeros(n, dtype=torch.int64)

    monkeypatch.setattr(module, "placed", marked)
    _, labels = compose("train", torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.tensor([0]))
    counts = torch.bincount((labels == 1).any(2).sum(1), minlength=6).tolist()
    assert counts[:2] + counts[5:] == [0, 0, 0]
    assert min(counts[2:5]) > 330  # of 1200, in three equal parts


def test_test_scenes_are_of_other_digits(monkeypatch):
    from dsa_core.lab.data import datasets

    seen = {}

    def spy(part, digits, labels):
        seen[part] = {d.numpy().tobytes() for d in digits}
        return compose(part, digits, labels)

    monkeypatch.setattr(datasets, "compose", spy)
    data.load("digit_scenes")
    assert len(seen["train"]) > 1400
    assert not seen["train"] & seen["test"]


def write_voc(root: Path, sizes: dict[str, list[tuple[int, int]]]) -> Path:
    base = root / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    for part, shapes in sizes.items():
        names = [f"{part}.x_{i}" for i in range(len(shapes))]  # a dot in the name
        (base / "ImageSets/Segmentation" / f"{part}.txt").write_text("\n".join(names) + "\n")
        for i, (name, (height, width)) in enumerate(zip(names, shapes, strict=True)):
            labels = np.zeros((height, width), dtype=np.uint8)
            labels[:, width // 2 :] = 1 + i
            labels[0] = 255
            image = np.stack([labels * 20] * 3, 2)
            Image.fromarray(image).save(base / "JPEGImages" / f"{name}.jpg", quality=100)
            colours = Image.fromarray(labels)
            if i % 2 == 0:  # as in VOC: numbers with a palette; else plain grey, as tools write it
                colours.putpalette([c for c in range(256) for _ in "rgb"])
            colours.save(base / "SegmentationClass" / f"{name}.png")
    return root


def test_voc(tmp_path):
    write_voc(tmp_path / "v", {"train": [(8, 10)] * 3, "val": [(8, 10)] * 2})
    dataset = data.load("voc:v", tmp_path)
    assert dataset.name == "voc:v"
    assert (dataset.count("train"), dataset.count("test"), dataset.num_classes) == (3, 2, 4)
    assert dataset.train_images.shape == (3, 3, 8, 10)
    assert dataset.train_labels[2, 3].tolist() == [0] * 5 + [3] * 5
    assert (dataset.train_labels[:, 0] == VOID).all()
    assert dataset.task.judged_by == "mIoU"
    x, y = next(dataset.batches("train", batch_size=3).epoch(0))
    assert (x.shape, y.shape, y.dtype) == ((3, 3, 8, 10), (3, 8, 10), torch.int64)
    write_voc(tmp_path / "v", {"test": [(8, 10)] * 4})  # goes before val
    absolute = data.load(f"voc:{tmp_path / 'v'}")
    assert torch.equal(absolute.train_labels, dataset.train_labels)
    assert absolute.count("test") == 4


def test_voc_of_different_sizes_wants_one(tmp_path):
    write_voc(tmp_path, {"train": [(8, 10), (12, 30)], "val": [(8, 10)]})
    with pytest.raises(ConfigError, match=r"differ in size \(8x10, 12x30.*voc:PATH@240x320"):
        data.load(f"voc:{tmp_path}")
    dataset = data.load(f"voc:{tmp_path}@8x10")
    assert dataset.train_images.shape == (2, 3, 8, 10)
    assert dataset.train_labels[0, 3].tolist() == [0] * 5 + [1] * 5
    # 12x30 becomes 8x20, of which the middle ten columns stay: five of each side
    assert (dataset.train_labels[1, 1:] == torch.tensor([0] * 5 + [2] * 5)).all()
    assert (dataset.train_labels[1, 0] == VOID).all()
    for wrong in ("8", "x10", "0x10", "8x10x2"):
        with pytest.raises(ConfigError, match="wants a size such as @90x120"):
            data.load(f"voc:{tmp_path}@{wrong}")


def test_voc_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="not in the layout of VOC 2012"):
        data.load(f"voc:{tmp_path}")
    write_voc(tmp_path, {"train": [(8, 10)], "val": [(8, 10)]})
    base = tmp_path / "VOCdevkit" / "VOC2012"
    (base / "JPEGImages" / "val.x_0.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be read"):
        data.load(f"voc:{tmp_path}")
    told, none = pytest.warns(UserWarning, match="1 of 1 images"), "no image of the list .*val"
    with told, pytest.raises(DataError, match=none):
        data.load(f"voc:{tmp_path}@skip")
    Image.new("RGB", (9, 9)).save(base / "JPEGImages" / "val.x_0.jpg")
    with pytest.raises(DataError, match="differ in size"):
        data.load(f"voc:{tmp_path}")
    (base / "ImageSets" / "Segmentation" / "test.txt").write_text("")
    with pytest.raises(DataError, match=r"test.txt is empty"):
        data.load(f"voc:{tmp_path}")


def test_mean_and_std():
    images = torch.randint(0, 256, (5, 3, 7, 9), generator=draw(), dtype=torch.uint8)
    mean, std = mean_and_std(images)
    values = images.double().transpose(0, 1).flatten(1) / 255
    assert mean == pytest.approx(values.mean(1).tolist(), abs=1e-4)
    assert std == pytest.approx(values.std(1, correction=0).tolist(), abs=1e-4)


@pytest.mark.data
@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"{CAMVID} is not there")
def test_camvid():
    dataset = data.load("voc:voc@45x60")
    assert (dataset.count("train"), dataset.count("test"), dataset.num_classes) == (367, 233, 11)


@pytest.mark.parametrize(("mode", "words"), [("RGB", "an image of mode RGB"), ("L", "one class")])
def test_maps_that_name_no_classes(tmp_path, mode, words):
    write_voc(tmp_path, {"train": [(8, 10)], "val": [(8, 10)]})
    for path in tmp_path.rglob("*.png"):
        Image.new(mode, (10, 8)).save(path)
    with pytest.raises(DataError, match=words):
        data.load(f"voc:{tmp_path}")
