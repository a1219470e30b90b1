"""The task of enlarging images, judged by the signal-to-noise ratio as the field has it."""

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import l1_loss

from dsa_core.errors import ConfigError
from dsa_core.training.task import Task

if TYPE_CHECKING:
    from torchmetrics import Metric

# Luma of ITU-R BT.601 with its head room, for colours in [0, 1], as Matlab's rgb2ycbcr has it
LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)
LUMA_SHIFT = 16 / 255
LEAST_ERROR = 1e-10  # of a mean square: below 100 dB nothing is cut
MOST = 100.0  # dB, of an image that is exact


def super_resolution(scale: int) -> Task:
    """Make the task: mean absolute error of the colours, judged by PSNR of the luma, in dB.

    For one image, colours in [0, 1] rounded to 8 bits, Y its luma without `scale` pixels at each
    border (where the filters see past the edge),

        PSNR = -10 log10( mean of (Y_out - Y_target)^2 ),

    averaged over images; SSIM of the same Y is reported beside it. During a training the PSNR of
    the colours is shown.

    Args:
        scale: how much larger images become, on each side.

    Source: as in Lim et al., EDSR, CVPR workshops 2017 (arXiv:1707.02921), section 4; SSIM: Wang et
        al., IEEE TIP 2004, window 11, deviation 1.5, as torchmetrics computes it.
    """
    metrics = {"PSNR": partial(psnr, scale), "SSIM": partial(ssim, scale)}
    return Task("super-resolution", colour_loss, colour_psnr, "colour PSNR", None, metrics, "dB")


def colour_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error.

    Raises:
        ConfigError: the shapes differ; torch would repeat one of the two.
    """
    if outputs.shape != targets.shape:
        raise ConfigError(
            f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} of "
            "super-resolution must have one shape: use a network that enlarges, such as edsr_small"
        )
    return l1_loss(outputs, targets)


def colour_psnr(outputs: Tensor, targets: Tensor) -> Tensor:
    """Sum over the images of a batch: PSNR of the colours, at most 100 dB each."""
    error = (outputs.float() - targets).square().flatten(1).mean(1)
    return (-10 * error.clamp_min(LEAST_ERROR).log10()).sum()


def luma(images: Tensor, border: int) -> Tensor:
    """The luma of 8-bit colours, without its border.

    Args:
        images: colours about in [0, 1], shape (N, 3, H, W); clipped and rounded to 1/255.
        border: pixels cut off on each side, >= 0.

    Returns:
        Shape (N, 1, H - 2 border, W - 2 border), in [16/255, 235/255].
    """
    colours = (images.float().clamp(0, 1) * 255).round() / 255
    weights = torch.tensor(LUMA, device=colours.device).view(1, 3, 1, 1)
    y = (colours * weights).sum(1, keepdim=True) + LUMA_SHIFT
    height, width = y.shape[-2:]
    return y[..., border : height - border, border : width - border]


def psnr(scale: int) -> "Metric":
    """An accumulator of the mean over images of the PSNR of the luma, peak 1, at most 100 dB."""
    from torchmetrics.image import PeakSignalNoiseRatio

    class Capped(PeakSignalNoiseRatio):
        def compute(self) -> Tensor:
            return super().compute().clamp_max(MOST).mean()

    return of_luma(Capped(data_range=1.0, dim=(1, 2, 3), reduction="none"), scale)


def ssim(scale: int) -> "Metric":
    """An accumulator of the mean over images of the SSIM of the luma."""
    from torchmetrics.image import StructuralSimilarityIndexMeasure

    return of_luma(StructuralSimilarityIndexMeasure(data_range=1.0), scale)


def of_luma(inner: "Metric", border: int) -> "Metric":
    """A metric that shows another one the luma of what it is shown."""
    from torchmetrics.wrappers.transformations import LambdaInputTransformer

    to_luma = partial(luma, border=border)
    return LambdaInputTransformer(inner, to_luma, to_luma)
