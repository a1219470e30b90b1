"""Segmentation and super resolution as tasks: losses and metrics against slow twins."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from dsa_core.errors import ConfigError
from dsa_core.lab import data, models
from dsa_core.lab.data import VOID, Task, luma, segmentation, super_resolution
from dsa_core.lab.data.batches import BatchSource
from dsa_core.training import evaluate

K = 4


class Fixed(BatchSource):
    """Given batches."""

    def __init__(self, batches):
        super().__init__(len(batches), batch_size=1, seed=0, shuffle=False, drop_last=False)
        self.given = batches

    def epoch(self, epoch, start=0):
        yield from self.given[start:]

    def fingerprint(self):
        return {}


def maps(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and targets of n images of 5x6, with a tenth of the pixels void."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, K, 5, 6, generator=draw)
    targets = torch.randint(0, K, (n, 5, 6), generator=draw)
    targets[torch.rand(targets.shape, generator=draw) < 0.1] = VOID
    return logits, targets


def iou_by_hand(pairs, classes: int) -> float:
    """Count pixel by pixel."""
    hits, either = [0] * classes, [0] * classes
    for logits, targets in pairs:
        found = logits.argmax(1)
        for f, t in zip(found.flatten().tolist(), targets.flatten().tolist(), strict=True):
            if t == VOID:
                continue
            hits[t] += f == t
            for k in {f, t}:
                either[k] += 1
    there = [k for k in range(classes) if either[k]]
    return sum(hits[k] / either[k] for k in there) / len(there)


def test_miou_is_of_all_pixels_and_not_a_mean_over_batches():
    pairs = [maps(3, seed=1), maps(1, seed=2), maps(2, seed=3)]
    found = evaluate(nn.Identity(), Fixed(pairs), segmentation(K))
    assert found.score == pytest.approx(iou_by_hand(pairs, K), rel=1e-6)
    means = [iou_by_hand([pair], K) for pair in pairs]
    assert abs(found.score - np.average(means, weights=[3, 1, 2])) > 1e-3
    one = [(torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs]))]
    again = evaluate(nn.Identity(), Fixed(one), segmentation(K))
    assert again.score == pytest.approx(found.score, rel=1e-6)
    task = segmentation(K)  # its metrics start anew each time
    assert [evaluate(nn.Identity(), Fixed(pairs), task) for _ in "ab"] == [found, found]
    right = sum(int((a.argmax(1) == b).sum()) for a, b in pairs)
    labelled = sum(int((b != VOID).sum()) for _, b in pairs)
    assert found.extra == {"pixel accuracy": pytest.approx(right / labelled)}


def test_a_class_that_never_occurs_does_not_count():
    logits, targets = maps(2)
    logits[:, 3], targets[targets == 3] = -100.0, 0
    found = evaluate(nn.Identity(), Fixed([(logits, targets)]), segmentation(K))
    assert found.score == pytest.approx(iou_by_hand([(logits, targets)], K))
    right = nn.functional.one_hot(targets.where(targets != VOID, 0), K).permute(0, 3, 1, 2)
    perfect = evaluate(nn.Identity(), Fixed([(100.0 * right, targets)]), segmentation(K))
    assert perfect.score == 1


def test_pixel_loss():
    logits, targets = maps(3)
    task = segmentation(K)
    there = targets != VOID
    wanted = cross_entropy(logits.permute(0, 2, 3, 1)[there], targets[there])
    torch.testing.assert_close(task.loss(logits, targets), wanted)
    smooth = cross_entropy(logits.permute(0, 2, 3, 1)[there], targets[there], label_smoothing=0.2)
    torch.testing.assert_close(task.training_loss(0.2)(logits, targets), smooth)
    logits.requires_grad_()
    nothing = task.loss(logits, torch.full_like(targets, VOID))
    nothing.backward()
    assert nothing.item() == 0
    assert not logits.grad.any()


def test_shown_in_training_is_the_sum_over_images():
    logits, targets = maps(3)
    targets[2] = VOID
    task = segmentation(K)
    shares = [
        ((logits[i].argmax(0) == targets[i]).sum() / (targets[i] != VOID).sum()).item()
        for i in (0, 1)
    ]
    assert task.score(logits, targets).item() == pytest.approx(sum(shares))
    assert (task.score_name, task.judged_by, task.unit) == ("pixel accuracy", "mIoU", "%")


def images(n: int, height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 256, (n, 3, height, width), generator=draw) / 255
    noise = 0.05 * torch.randn(targets.shape, generator=draw)
    return targets + noise, targets


def psnr_by_hand(found: torch.Tensor, wanted: torch.Tensor, border: int) -> float:
    """Of one image, in numpy and in the field's own numbers, 0 .. 255."""
    y = []
    for image in (found, wanted):
        r, g, b = np.round(np.clip(image.double().numpy(), 0, 1) * 255)
        luma_255 = 16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255
        y.append(luma_255[border:-border, border:-border])
    return 10 * math.log10(255**2 / np.mean((y[0] - y[1]) ** 2))


def test_psnr_is_the_mean_over_images_of_different_sizes():
    pairs = [images(2, 20, 24, seed=1), images(1, 30, 22, seed=2)]
    for scale in (2, 3):
        found = evaluate(nn.Identity(), Fixed(pairs), super_resolution(scale))
        wanted = [psnr_by_hand(a, b, scale) for x, y in pairs for a, b in zip(x, y, strict=True)]
        assert found.score == pytest.approx(np.mean(wanted), rel=1e-5)
        assert list(found.extra) == ["SSIM"]
        assert 0 < found.extra["SSIM"] < 1


def test_ssim_of_equal_images_and_luma_by_hand():
    x, y = images(1, 16, 16)
    same = evaluate(nn.Identity(), Fixed([(y, y)]), super_resolution(2))
    assert same.extra["SSIM"] == pytest.approx(1)
    assert same.score == 100  # dB at most
    white = torch.tensor([-0.3, 1.3]).view(2, 1, 1, 1).expand(2, 3, 6, 8)
    found = luma(white, 1)
    assert found.shape == (2, 1, 4, 6)
    torch.testing.assert_close(found[:, 0, 0, 0], torch.tensor([16 / 255, 235 / 255]))
    assert luma(x, 0).shape == (1, 1, 16, 16)


def test_colour_loss_and_score():
    task = super_resolution(2)
    x, y = images(3, 6, 6)
    torch.testing.assert_close(task.loss(x, y), (x - y).abs().mean())
    wanted = sum(10 * math.log10(1 / (a - b).square().mean()) for a, b in zip(x, y, strict=True))
    assert task.score(x, y).item() == pytest.approx(wanted, rel=1e-5)
    assert task.score(y, y).item() == pytest.approx(300)  # at most 100 dB each
    with pytest.raises(ConfigError, match=r"\(1, 3, 3, 3\) .* must have one shape"):
        task.loss(x[:1, :, :3, :3], y)
    with pytest.raises(ConfigError, match="has no label smoothing"):
        task.training_loss(0.1)
    assert (task.judged_by, task.show(30)) == ("PSNR", "30.00 dB")


def test_a_task_without_metrics_is_judged_by_its_score():
    seen = []
    task = Task("t", lambda a, b: a.mean(), lambda a, b: seen.append(1) or a.sum(), "sum")
    x = torch.tensor([[1.0], [3.0]])
    found = evaluate(nn.Identity(), Fixed([(x, x), (x[:1], x[:1])]), task)
    assert (found.score, found.extra, len(seen)) == (pytest.approx(5 / 3), {}, 2)
    metrics = segmentation(K)
    quick = Task("t", metrics.loss, lambda a, b: 1 / 0, "never", None, metrics.metrics)
    assert 0 < evaluate(nn.Identity(), Fixed([maps(2)]), quick).score < 1


@pytest.mark.parametrize("name", ["digits", "digit_scenes", "photo_patches"])
def test_the_task_comes_with_the_dataset(name):
    dataset = data.load(name)
    model = {"digits": "resnet8", "digit_scenes": "segnet_small"}.get(name, "edsr_small")
    network = models.build(model, num_classes=dataset.num_classes)
    for part in ("train", "test"):
        x, y = next(dataset.batches(part, batch_size=4).epoch(0))
        loss = dataset.task.loss(network(x), y)
        loss.backward()
        assert torch.isfinite(loss)
    other = dataset.batches("test", batch_size=64)
    found = evaluate(network, other, dataset.task)
    assert found.n == dataset.count("test")
