"""Datasets, batches, tasks: fixed splits, pure functions of (seed, epoch), errors that help."""

import pickle
import struct
import zlib
from itertools import chain
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems_runs import digits, write_folder
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy, pad
from torchvision.datasets import CIFAR10, CIFAR100

from dsa_core.errors import ConfigError, DataError
from dsa_core.lab import data


def make_batches(n: int = 10, **settings) -> data.Batches:
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 1, 4, 4)
    wanted = {"batch_size": 3, "mean": (0.0,), "std": (1.0,)} | settings
    return data.Batches(images, torch.arange(n), **wanted)


def test_digits_split_is_fixed_disjoint_complete_and_stratified():
    loaded = digits()
    assert loaded.train_images.shape == (1437, 1, 8, 8)
    assert loaded.test_images.shape == (360, 1, 8, 8)
    # scikit-learn's split with random_state 0, as it was when the first results were recorded
    assert zlib.crc32(loaded.test_labels.numpy().tobytes()) == 0xB411CAE9
    assert zlib.crc32(loaded.test_images.contiguous().numpy().tobytes()) == 0x9066F692
    raw = load_digits()
    both = torch.cat([loaded.train_images, loaded.test_images]).flatten(1)
    wanted = torch.from_numpy(raw.images * 255 / 16).round().to(torch.uint8).flatten(1)
    assert sorted(map(tuple, both.tolist())) == sorted(map(tuple, wanted.tolist()))
    in_class = np.bincount(raw.target)
    assert np.abs(loaded.test_labels.bincount().numpy() - in_class / 5).max() < 1
    pixels = loaded.train_images.float() / 255
    assert loaded.mean[0] == pytest.approx(pixels.mean().item(), abs=1e-3)
    assert loaded.std[0] == pytest.approx(pixels.std().item(), abs=2e-3)


@given(st.integers(2, 300), st.floats(0.01, 0.99), st.integers(0, 5))
def test_split_partitions(n, fraction, seed):
    if not 0 < round(fraction * n) < n:
        with pytest.raises(ConfigError, match="leaves a part empty"):
            data.split(n, fraction, seed)
        return
    first, second = data.split(n, fraction, seed)
    assert len(first) == round(fraction * n)
    assert sorted(first.tolist() + second.tolist()) == list(range(n))
    assert first.tolist() == data.split(n, fraction, seed)[0].tolist()


def test_split_depends_on_the_seed():
    assert data.split(100, 0.9, 0)[1].tolist() != data.split(100, 0.9, 1)[1].tolist()


def epoch_of(batches: data.BatchSource, epoch: int, start: int = 0) -> list[list[torch.Tensor]]:
    return [list(batch) for batch in batches.epoch(epoch, start)]


@pytest.mark.parametrize("augment", ["none", "crop_flip", "shift"])
def test_batches_are_a_function_of_seed_and_epoch(augment):
    def make(seed: int) -> data.Batches:
        return digits().batches("train", batch_size=500, seed=seed, augment=augment)

    first, again = make(1), make(1)
    list(again.epoch(0))  # what was read before, and torch's own state, do not matter
    torch.manual_seed(99)
    wanted = epoch_of(first, 3)
    torch.testing.assert_close(epoch_of(again, 3), wanted, rtol=0, atol=0)
    torch.testing.assert_close(epoch_of(again, 3, 2), wanted[2:], rtol=0, atol=0)
    assert not torch.equal(wanted[0][0], epoch_of(first, 4)[0][0])
    assert not torch.equal(wanted[0][0], epoch_of(make(2), 3)[0][0])


def test_each_epoch_draws_its_own_augmentation_and_leaves_torchs_state_alone():
    before = torch.get_rng_state()
    batches = digits().batches("train", batch_size=700, shuffle=False)
    assert not torch.equal(epoch_of(batches, 0)[0][0], epoch_of(batches, 1)[0][0])
    test = digits().batches("test", batch_size=360)  # neither shuffled nor augmented
    torch.testing.assert_close(epoch_of(test, 0), epoch_of(test, 1), rtol=0, atol=0)
    assert torch.equal(before, torch.get_rng_state())


@given(st.integers(1, 60), st.integers(1, 20), st.booleans(), st.integers(0, 3))
def test_an_epoch_shows_each_example_once(n, batch_size, drop_last, epoch):
    if drop_last and n < batch_size:
        with pytest.raises(DataError, match="make no batch"):
            make_batches(n, batch_size=batch_size, drop_last=True)
        return
    batches = make_batches(n, batch_size=batch_size, drop_last=drop_last)
    seen = [y for _, y in batches.epoch(epoch)]
    assert len(seen) == len(batches)
    flat = torch.cat(seen).tolist()
    assert len(set(flat)) == len(flat)
    assert len(flat) == (n - n % batch_size if drop_last else n)


def test_images_and_labels_stay_together_and_in_order_if_so_asked():
    for x, y in make_batches(augment="shift", std=(1 / 255,)).epoch(0):
        assert x.amax((1, 2, 3)).tolist() == y.tolist()
    labels = [y for _, y in make_batches(shuffle=False).epoch(4)]
    assert torch.cat(labels).tolist() == list(range(10))


@pytest.mark.parametrize("start", [0, 1, 4, 9])
def test_forever_can_start_anywhere(start):
    batches = make_batches()  # 4 batches an epoch
    steps = [y.tolist() for epoch in range(4) for _, y in batches.epoch(epoch)]
    endless = batches.forever(start)
    assert [next(endless)[1].tolist() for _ in range(5)] == steps[start : start + 5]


def test_normalisation_by_formula():
    images = torch.randint(0, 256, (4, 2, 3, 3), dtype=torch.uint8)
    batches = data.Batches(
        images, torch.zeros(4), batch_size=4, mean=(0.2, 0.4), std=(0.5, 0.25), shuffle=False
    )
    ((x, _),) = batches.epoch(0)
    mean, std = torch.tensor([0.2, 0.4]).view(2, 1, 1), torch.tensor([0.5, 0.25]).view(2, 1, 1)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, (images / 255 - mean) / std, rtol=1e-5, atol=1e-5)


def test_fingerprint_sees_what_matters():
    def entries(**settings) -> dict[str, str]:
        return digits().batches("train", **({"batch_size": 64} | settings)).fingerprint()

    assert entries() == entries()
    changes = [
        {"batch_size": 65},
        {"seed": 1},
        {"augment": "none"},
        {"shuffle": False},
        {"drop_last": True},
        {"indices": torch.arange(1, 1437)},
        {"indices": torch.arange(1437).flip(0)},
    ]
    for change in changes:
        assert entries(**change) != entries(), change


@pytest.mark.parametrize("name", ["crop_flip", "shift", "none"])
def test_augmentation_is_crop_then_flip_by_the_numbers_drawn(name):
    images = torch.randint(0, 256, (32, 3, 6, 9), dtype=torch.uint8)
    how = data.AUGMENTATIONS[name]
    got = data.augment_batch(images, how, data.generator(3, "test"))
    draw, wanted = data.generator(3, "test"), list(images)
    if how.padding:
        rows, columns = (torch.randint(0, 2 * how.padding + 1, (32,), generator=draw) for _ in "rc")
        places = zip(pad(images, (how.padding,) * 4), rows, columns, strict=True)
        wanted = [image[:, r : r + 6, c : c + 9] for image, r, c in places]
    if how.flip:
        mirrored = torch.rand(32, generator=draw) < 0.5
        wanted = [i.flip(-1) if m else i for i, m in zip(wanted, mirrored, strict=True)]
    torch.testing.assert_close(got, torch.stack(wanted), rtol=0, atol=0)


def test_step_seed_is_stable_and_distinct():
    # SHA-256 of "(0, 'order', 7)", first 8 bytes big-endian, halved: fixed for all time
    import hashlib

    wanted = int(hashlib.sha256(b"(0, 'order', 7)").hexdigest()[:16], 16) // 2
    assert data.step_seed(0, "order", 7) == wanted
    seeds = {data.step_seed(s, name, e) for s in range(5) for name in "ab" for e in range(20)}
    assert len(seeds) == 200


@pytest.mark.parametrize(("kind", "key"), [(CIFAR10, "labels"), (CIFAR100, "fine_labels")])
def test_cifar_in_the_official_format(tmp_path, kind, key, monkeypatch):
    monkeypatch.setenv("DSA_DATA", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    folder, rng, written = tmp_path / kind.base_folder, np.random.default_rng(0), []
    folder.mkdir()
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: []}))
    for name, _ in kind.train_list + kind.test_list:
        part = {"data": rng.integers(0, 256, (4, 3072), np.uint8), key: rng.integers(0, 10, 4)}
        (folder / name).write_bytes(pickle.dumps(part, protocol=2))
        written.append((part["data"].reshape(-1, 3, 32, 32), part[key].tolist()))
    cifar = data.load(kind.__name__.lower())
    assert cifar.num_classes == int(kind.__name__[5:])
    images, labels = zip(*written, strict=True)
    assert np.array_equal(cifar.train_images.numpy(), np.concatenate(images[:-1]))
    assert cifar.train_images.is_contiguous()
    assert cifar.train_labels.tolist() == [*chain(*labels[:-1])]
    assert np.array_equal(cifar.test_images.numpy(), images[-1])
    assert cifar.test_labels.tolist() == labels[-1]
    assert cifar.count("train") == 4 * len(kind.train_list)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cifar10", r"CIFAR-10 is not in .*cifar-10-batches-py"),
        ("cifar100", r"CIFAR-100 is not in .*cifar-100-python"),
        ("fashion_mnist", r"Fashion-MNIST is not in .*raw"),
    ],
)
def test_files_that_are_missing_and_a_failed_download_say_where(tmp_path, name, says, monkeypatch):
    with pytest.raises(DataError, match=rf"{says}.*DSA_DATA.*download=True"):
        data.load(name, tmp_path)

    def offline(*args, **kwargs):
        raise URLError("no route to host")

    for dataset in ("CIFAR10", "CIFAR100", "FashionMNIST"):
        monkeypatch.setattr(f"torchvision.datasets.{dataset}.download", offline)
    with pytest.raises(DataError, match=rf"{says}.*could not be downloaded .*no route.*DSA_DATA"):
        data.load(name, tmp_path, download=True)


class Evil:
    def __reduce__(self):
        return print, ("this must never be printed",)


def test_cifar_of_another_checksum_is_not_read(tmp_path, capsys):
    (tmp_path / "cifar-10-batches-py").mkdir()
    for name, _ in CIFAR10.train_list + CIFAR10.test_list:
        content = pickle.dumps({"data": Evil(), "labels": []})
        (tmp_path / "cifar-10-batches-py" / name).write_bytes(content)
    with pytest.raises(DataError, match="corrupted"):
        data.load("cifar10", tmp_path)
    assert capsys.readouterr().out == ""


def test_fashion_mnist_in_the_official_format(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    rng, wanted = np.random.default_rng(1), {}
    for part, n in (("train", 5), ("t10k", 3)):
        pixels = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, n).astype(np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">4i", 2051, n, 28, 28) + pixels.tobytes()
        )
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">2i", 2049, n) + labels.tobytes()
        )
        wanted[part] = (pixels, labels)
    loaded = data.load("fashion_mnist", tmp_path)
    assert np.array_equal(loaded.train_images.numpy()[:, 0], wanted["train"][0])
    assert np.array_equal(loaded.test_labels.numpy(), wanted["t10k"][1])
    (raw / "train-images-idx3-ubyte").write_bytes(b"\x00" * 10)
    with pytest.raises(DataError, match=r"FashionMNIST.*damaged"):
        data.load("fashion_mnist", tmp_path)


def test_root_comes_from_argument_then_environment_then_default(monkeypatch):
    monkeypatch.setenv("DSA_DATA", "/from/environment")
    assert data.data_root("/given") == Path("/given")
    assert data.data_root() == Path("/from/environment")
    monkeypatch.delenv("DSA_DATA")
    assert data.data_root() == Path("data")


def test_folder_has_the_same_interface(tmp_path):
    dataset = data.load(f"folder:{write_folder(tmp_path, train=3)}")
    assert (dataset.num_classes, dataset.count("train"), dataset.count("test")) == (2, 6, 4)
    batches = dataset.batches("train", batch_size=4, seed=3)
    assert len(batches) == 2
    wanted = epoch_of(batches, 1)
    assert wanted[0][0].shape == (4, 3, 224, 224)
    torch.testing.assert_close(epoch_of(batches, 1), wanted, rtol=0, atol=0)
    torch.testing.assert_close(epoch_of(batches, 1, 1), wanted[1:], rtol=0, atol=0)
    assert not torch.equal(epoch_of(batches, 2)[0][0], wanted[0][0])
    labels = [y for _, y in dataset.batches("test", batch_size=3).epoch(0)]
    assert torch.cat(labels).tolist() == [0, 0, 1, 1]
    part = dataset.batches("train", batch_size=4, indices=torch.tensor([0, 5]), shuffle=False)
    assert [y.tolist() for _, y in part.epoch(0)] == [[0, 1]]


def test_workers_change_no_number_stay_and_draw_from_their_own_generator(tmp_path):
    path = f"folder:{write_folder(tmp_path, train=3)}"
    alone, helped = (
        data.load(path, workers=n).batches("train", batch_size=2, seed=3) for n in (0, 2)
    )
    before = torch.random.get_rng_state()
    next(helped.epoch(1))  # left after a batch
    loader = helped._idle
    for epoch, start in ((1, 0), (2, 1)):
        wanted = epoch_of(alone, epoch, start)
        torch.testing.assert_close(epoch_of(helped, epoch, start), wanted, rtol=0, atol=0)
    assert helped._idle is loader is not None
    for first, second in zip(helped.epoch(1), helped.epoch(2), strict=True):  # side by side
        assert not torch.equal(first[0], second[0])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_folder_errors(tmp_path):
    with pytest.raises(DataError, match="ImageNet's layout"):
        data.load(f"folder:{tmp_path / 'absent'}")
    dataset = data.load(f"folder:{write_folder(tmp_path, train=3)}")
    with pytest.raises(ConfigError, match="resized_crop_flip, got 'shift'"):
        dataset.batches("train", batch_size=2, augment="shift")
    with pytest.raises(DataError, match=r"one class alone, ant: wanted are two"):
        data.load(f"folder:{write_folder(tmp_path / 'alone', classes=1)}")
    (tmp_path / "val" / "cow").mkdir()
    with pytest.raises(DataError, match=r"different classes: \['cow'\]"):
        data.load(f"folder:{tmp_path}")
    (tmp_path / "train" / "cow").mkdir()
    with pytest.raises(DataError, match=r"train/cow holds no images"):
        data.load(f"folder:{tmp_path}")


def of_30000_pixels(whole: bytes) -> bytes:
    """A PNG whose header promises 900 million pixels."""
    header = b"IHDR" + struct.pack(">II", 30_000, 30_000) + whole[24:29]
    return whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]


DAMAGED = {
    "truncated": lambda whole: whole[: len(whole) // 2],
    "text": lambda whole: b"no image",
    "huge": of_30000_pixels,
    "loop": None,
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_image_is_named_or_left_out_as_asked(tmp_path, damage):
    whole = write_folder(tmp_path, train=3)
    path = whole / "train" / "bee" / "1.png"
    content = path.read_bytes()
    path.unlink()
    if damage == "loop":
        path.symlink_to(path.name)
    else:
        path.write_bytes(DAMAGED[damage](content))
    batches = data.load(f"folder:{whole}").batches("train", batch_size=6)
    with pytest.raises(DataError, match=r"bee/1\.png cannot be read as an image.*@skip"):
        next(batches.epoch(0))
    with pytest.warns(UserWarning, match=r"^1 of 10 images are left out; the first: .*bee/1\.png"):
        some = data.load(f"folder:{whole}@skip")
    assert (some.name, some.count("train"), some.count("test")) == (f"folder:{whole}@skip", 5, 4)
    labels = torch.cat([y for _, y in some.batches("train", batch_size=2).epoch(0)])
    assert sorted(labels.tolist()) == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("to", ["..", ".", "../..", "../bee", "../../val", "../../../elsewhere"])
def test_links_to_folders_name_no_image_twice(tmp_path, to):
    whole = write_folder(tmp_path / "whole", train=3)
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "more.png").write_bytes(b"")
    (tmp_path / "elsewhere" / "back").symlink_to(whole)
    (whole / "train" / "ant" / "link").symlink_to(to)
    more = {"../../../elsewhere": 1, "../../val": 4}.get(to, 0)
    assert data.load(f"folder:{whole}").count("train") == 6 + more


def test_unknown_names():
    with pytest.raises(ConfigError, match="did you mean 'cifar10'"):
        data.load("cifar-10")
    with pytest.raises(ConfigError, match="'train' or 'test', got 'val'"):
        digits().batches("val", batch_size=3)
    with pytest.raises(ConfigError, match="crop_flip, shift, flip_turn, got 'mixup'"):
        digits().batches("train", batch_size=3, augment="mixup")


def test_wrong_shapes():
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        make_batches(batch_size=0)
    with pytest.raises(ConfigError, match="each of 1 channels, got 2 and 1"):
        make_batches(mean=(0.0, 0.0))
    common = {"batch_size": 1, "mean": (0.0,), "std": (1.0,)}
    with pytest.raises(DataError, match="must be uint8"):
        data.Batches(torch.zeros(2, 1, 4, 4), torch.zeros(2), **common)
    with pytest.raises(DataError, match="2 images but 3 labels"):
        data.Batches(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3), **common)


def test_classification_by_hand():
    task = data.classification()
    outputs = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    targets = torch.tensor([0, 1, 1])
    lost = torch.tensor([np.log1p(np.exp(-2.0)), np.log1p(np.exp(-1.0)), np.log1p(np.exp(3.0))])
    torch.testing.assert_close(task.loss(outputs, targets), lost.mean().float())
    assert task.score(outputs, targets).item() == 2
    assert task.training_loss(0.0) is task.loss
    assert (task.judged_by, task.show(0.5)) == ("accuracy", "50.00 %")
    # smoothing by a: (1 - a) of the loss at the target, a of its mean over all classes
    spread = -outputs.log_softmax(1).mean(1).mean()
    wanted = 0.9 * cross_entropy(outputs, targets) + 0.1 * spread
    torch.testing.assert_close(task.training_loss(0.1)(outputs, targets), wanted)
