"""Segmentation networks: torchvision's, and a small one of our own."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from dsa_core.lab.models.resnet import BasicBlock, ConvShortcut, conv3x3


class Segmenter(nn.Module):
    """One of torchvision's segmentation networks, returning its map instead of a dict of maps.

    The modules keep torchvision's names, so that its state dicts fit (without the auxiliary head,
    which is for training only and is not built).

    Args:
        network: of `torchvision.models.segmentation`.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        from torchvision.models.segmentation.lraspp import LRASPP

        self.backbone: nn.Module = network.backbone
        self.classifier: nn.Module = network.classifier
        self.two_scales = isinstance(network, LRASPP)  # its head takes two features, others one

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to logits (N, num_classes, H, W)."""
        features = self.backbone(x)
        logits = self.classifier(features if self.two_scales else features["out"])
        return resized(logits, x)


def resized(x: Tensor, like: Tensor) -> Tensor:
    """Resize the planes of `x` to those of `like`, bilinearly."""
    return interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class SmallSegNet(nn.Module):
    """An encoder of three scales, and a decoder with skip connections.

    A U-Net with one convolution per scale, and residual blocks at the smaller scales:
    stem (H) -> down1, block1 (H/2) -> down2, block2 (H/4) -> up1, with block1 beside it (H/2)
    -> up2, with the stem beside it (H) -> 1x1 convolution.

    Args:
        num_classes: of the map.
        in_channels: of the image.
        narrow, wide: channels at full size, and at the smaller ones.

    Source: after Ronneberger et al., "U-Net", MICCAI 2015 (arXiv:1505.04597), much smaller, with
        BatchNorm, residual blocks and bilinear resizing in place of transposed convolutions.
    """

    def __init__(
        self, *, num_classes: int = 11, in_channels: int = 1, narrow: int = 16, wide: int = 32
    ) -> None:
        super().__init__()
        self.stem = unit(in_channels, narrow, 1)
        self.down1 = unit(narrow, wide, 2)
        self.block1 = BasicBlock(wide, wide, 1, shortcut=ConvShortcut)
        self.down2 = unit(wide, wide, 2)
        self.block2 = BasicBlock(wide, wide, 1, shortcut=ConvShortcut)
        self.up1 = unit(2 * wide, wide, 1)
        self.up2 = unit(wide + narrow, narrow, 1)
        self.head = nn.Conv2d(narrow, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to logits (N, num_classes, H, W)."""
        full = self.stem(x)
        half = self.block1(self.down1(full))
        quarter = self.block2(self.down2(half))
        half = self.up1(torch.cat([resized(quarter, half), half], 1))
        full = self.up2(torch.cat([resized(half, full), full], 1))
        return self.head(full)


def unit(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """A 3x3 convolution, BatchNorm and ReLU."""
    conv = conv3x3(in_channels, out_channels, stride)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())
