"""Images to be enlarged: smaller copies, patches, whole images, and the field's own anchor."""

from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate

from dsa_core.errors import ConfigError, DataError
from dsa_core.lab import data
from dsa_core.lab.data import UpscaleBatches, shrunk, super_resolution
from dsa_core.lab.data.upscale import cut, even
from dsa_core.training import evaluate

SR = data.data_root() / "sr"


@cache
def photos() -> data.UpscaleDataset:
    return data.load("photo_patches")


def noise(*shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)


class Bicubic(nn.Module):
    """With the kernel that Matlab has (a = -1/2), which torch takes where it antialiases."""

    def forward(self, x: Tensor) -> Tensor:
        size = [2 * n for n in x.shape[-2:]]
        return interpolate(x, size=size, mode="bicubic", antialias=True, align_corners=False)


def test_shrunk_against_pillow():
    """Pillow's bicubic filter is the same kernel, in whole numbers: equal to one grey level."""
    image = noise(1, 3, 24, 36)
    found = shrunk(image, 2)
    assert found.shape == (1, 3, 12, 18)
    assert found.dtype == torch.uint8
    colours = Image.fromarray(image[0].permute(1, 2, 0).numpy())
    wanted = np.asarray(colours.resize((18, 12), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(found[0].permute(1, 2, 0).numpy() - wanted).max() <= 1
    flat = torch.full((1, 3, 8, 8), 77, dtype=torch.uint8)
    assert (shrunk(flat, 2) == 77).all()


def test_cut_side_by_side():
    image = noise(3, 11, 14)
    patches = cut(image, 4)
    assert patches.shape == (6, 3, 4, 4)
    for k in range(6):
        r, c = divmod(k, 3)
        assert torch.equal(patches[k], image[:, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4])
    assert even(image).shape == (3, 10, 14)


def test_batches_are_a_patch_and_its_small_copy():
    patches = noise(12, 3, 8, 8)
    plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "batch_size": 12}
    x, y = next(UpscaleBatches(patches, patches, **plain, shuffle=False).epoch(0))
    torch.testing.assert_close(y, patches.float() / 255)
    torch.testing.assert_close(x, shrunk(patches, 2).float() / 255)
    x, y = next(UpscaleBatches(patches, patches, **plain, augment="flip_turn").epoch(0))
    torch.testing.assert_close(x, shrunk((y * 255).round().to(torch.uint8), 2).float() / 255)


def test_flip_turn_gives_four_forms():
    one = noise(1, 3, 6, 6).expand(200, -1, -1, -1).contiguous()
    how = data.AUGMENTATIONS["flip_turn"]
    found = data.augment_batch(one, how, torch.Generator().manual_seed(0))
    forms = [one[0], one[0].flip(2), one[0].mT, one[0].flip(2).mT]
    counts = [int((found == form).flatten(1).all(1).sum()) for form in forms]
    assert sum(counts) == 200
    assert min(counts) > 25


def test_photo_patches():
    dataset = photos()
    assert (dataset.count("train"), dataset.count("test"), dataset.num_classes) == (416, 2, 3)
    x, y = next(dataset.batches("train", batch_size=5).epoch(0))
    assert (x.shape, y.shape) == ((5, 3, 16, 16), (5, 3, 32, 32))
    chosen = torch.tensor([3, 5])
    some = dataset.batches("train", batch_size=2, indices=chosen, augment="none", shuffle=False)
    torch.testing.assert_close(next(some.epoch(0))[1], dataset.patches[chosen] / 255)
    with pytest.raises(ConfigError, match="got 'dim'"):
        dataset.batches("train", batch_size=2, augment="dim")


def test_no_pixel_is_in_both_parts():
    """Strips are columns 256 to 383 of the photographs, patches lie left and right of them."""
    from sklearn.datasets import load_sample_images

    for i, photo in enumerate(load_sample_images().images):
        wide = torch.tensor(photo).permute(2, 0, 1)
        assert torch.equal(photos().images[i], wide[:, :426, 256:384])
        sides = torch.cat([cut(wide[:, :, :256], 32), cut(wide[:, :, 384:], 32)])
        assert torch.equal(photos().patches[208 * i : 208 * (i + 1)], sides)


def test_whole_images_come_one_by_one():
    dataset = photos()
    test = dataset.batches("test", batch_size=500)
    assert len(test) == 2
    pairs = list(test.epoch(0))
    assert [tuple(x.shape) for x, _ in pairs] == [(1, 3, 213, 64)] * 2
    torch.testing.assert_close(pairs[1][1][0], dataset.images[1].float() / 255)
    second = list(dataset.batches("test", batch_size=1, indices=torch.tensor([1])).epoch(0))
    torch.testing.assert_close(second[0][0], pairs[1][0])
    assert len(list(test.epoch(0, start=1))) == 1
    other = dataset.batches("test", batch_size=1, indices=torch.tensor([1])).fingerprint()
    assert test.fingerprint() != other


def test_folders(tmp_path):
    for part, sizes in {"a": [(100, 50), (47, 60), (48, 48)], "b": [(51, 64)]}.items():
        (tmp_path / part).mkdir()
        for i, (height, width) in enumerate(sizes):
            image = Image.fromarray(noise(height, width, 3, seed=i).numpy())
            image.save(tmp_path / part / f"{i}.png")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    dataset = data.load("sr:a,b", tmp_path)
    assert dataset.name == "sr:a,b"
    assert dataset.patches.shape == (3, 3, 48, 48)  # two of the first, none of the second
    assert [tuple(p.shape) for p in dataset.images] == [(3, 50, 64)]
    assert torch.equal(dataset.patches[0], noise(100, 50, 3).permute(2, 0, 1)[:, :48, :48])
    with pytest.raises(ConfigError, match="wanted is sr:TRAINFOLDER,TESTFOLDER, got 'sr:a'"):
        data.load("sr:a", tmp_path)
    with pytest.raises(DataError, match="holds no image of at least 48x48"):
        data.load("sr:a,c", tmp_path)
    (tmp_path / "b" / "x.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"x.png cannot be read"):
        data.load("sr:a,b", tmp_path)
    with pytest.warns(UserWarning, match=r"^1 of 2 images are left out; the first: .*x\.png"):
        assert data.load("sr:a,b@skip", tmp_path).count("test") == 1
    Image.fromarray(noise(15, 40, 3).numpy()).save(tmp_path / "b" / "x.png")
    with pytest.raises(DataError, match=r"b has an image of 15x40 pixels: wanted are 16 or more"):
        data.load("sr:a,b", tmp_path)


@pytest.mark.data
@pytest.mark.skipif(not SR.is_dir(), reason=f"{SR} is not there")
@pytest.mark.parametrize(("name", "psnr", "ssim"), [("set5", 33.66, 0.9299)])
def test_bicubic_scores_what_the_field_reports(name, psnr, ssim):
    """Bicubic interpolation by 2 as in the tables of SRCNN, VDSR and EDSR (Y, border shaved).

    They crop with Matlab's imresize, whose rounding and edges are not ours: to 0.05 dB.
    """
    dataset = data.load(f"sr:sr/t91,sr/{name}")
    found = evaluate(Bicubic(), dataset.batches("test", batch_size=1), super_resolution(2))
    assert found.score == pytest.approx(psnr, abs=0.05)
    assert found.extra["SSIM"] == pytest.approx(ssim, abs=0.002)
