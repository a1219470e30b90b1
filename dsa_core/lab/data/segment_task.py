"""The task of naming a class for every pixel, judged by the mean intersection over union."""

from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn.functional import cross_entropy

from dsa_core.training.task import Task

if TYPE_CHECKING:
    from torchmetrics import Metric

VOID = 255  # a pixel that counts for nothing, as in Pascal VOC


def segmentation(num_classes: int) -> Task:
    """Make the task: cross-entropy over the pixels, judged by mIoU.

    For class k let TP, FP and FN be its pixels over *all* images. Then

        IoU_k = TP / (TP + FP + FN),    mIoU = mean of IoU_k over the classes that occur,

    in the targets or the answers. Pixels of label 255 count nowhere. During a training the share of
    right pixels is shown, which is cheaper.

    Args:
        num_classes: K; outputs are (N, K, H, W), targets (N, H, W) in 0 .. K-1, or 255.

    Source: Everingham et al., "The Pascal VOC challenge: a retrospective", IJCV 2015.
    """
    metrics = {
        "mIoU": partial(mean_iou, num_classes),
        "pixel accuracy": partial(pixel_accuracy, num_classes),
    }
    return Task(
        "segmentation", pixel_loss, right_pixels, "pixel accuracy", smoothed_pixel_loss, metrics
    )


def pixel_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels of a batch that have a label; 0 if none has."""
    return smoothed_pixel_loss(outputs, targets, 0.0)


def smoothed_pixel_loss(outputs: Tensor, targets: Tensor, amount: float) -> Tensor:
    """The same with label smoothing; `amount` in [0, 1)."""
    total = cross_entropy(
        outputs, targets, ignore_index=VOID, reduction="sum", label_smoothing=amount
    )
    return total / (targets != VOID).sum().clamp_min(1)  # without labels 0, not 0 / 0


def right_pixels(outputs: Tensor, targets: Tensor) -> Tensor:
    """Sum over the images of a batch: share of the labelled pixels that are right."""
    labelled = targets != VOID
    right = outputs.argmax(1) == targets  # no answer is 255
    return (right.sum((1, 2)) / labelled.sum((1, 2)).clamp_min(1)).sum()


def mean_iou(num_classes: int) -> "Metric":
    """An accumulator of the confusion matrix."""
    from torchmetrics.classification import MulticlassJaccardIndex

    return MulticlassJaccardIndex(num_classes, ignore_index=VOID, validate_args=False)


def pixel_accuracy(num_classes: int) -> "Metric":
    """An accumulator of the share of right pixels, over all pixels of all images."""
    from torchmetrics.classification import MulticlassAccuracy

    return MulticlassAccuracy(num_classes, average="micro", ignore_index=VOID, validate_args=False)
