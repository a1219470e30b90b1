"""A residual network for super-resolution, with pixel shuffle and without BatchNorm.

Source: Lim et al., "Enhanced deep residual networks for single image super-resolution", CVPR
    workshops 2017 (arXiv:1707.02921), figures 2 and 3. Deviations: far smaller; the colours are
    shifted by 1/2, not by the mean of the training set; the bicubically enlarged image is added to
    the output (as in VDSR, Kim et al., CVPR 2016), and the last convolution starts at zero, so that
    training starts from bicubic interpolation.
"""

from torch import Tensor, nn
from torch.nn.functional import interpolate

COLOURS = 3


class ResidualBlock(nn.Module):
    """x + scale conv2(relu(conv1 x)), of 3x3 convolutions with a bias."""

    def __init__(self, channels: int, *, scale: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        return x + self.scale * self.conv2(self.relu(self.conv1(x)))


class EDSR(nn.Module):
    """Head, residual blocks with a skip over all of them, pixel shuffle, tail.

    Args:
        blocks: residual blocks.
        channels: of every convolution before the pixel shuffle.
        scale: factor by which each side of the image grows.
        residual_scale: of each block's branch; 1 as in EDSR's baseline, 0.1 in its large network.
    """

    def __init__(
        self, *, blocks: int = 4, channels: int = 32, scale: int = 2, residual_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.scale = scale
        self.head = nn.Conv2d(COLOURS, channels, 3, padding=1)
        chain = [ResidualBlock(channels, scale=residual_scale) for _ in range(blocks)]
        self.body = nn.Sequential(*chain)
        self.body_end = nn.Conv2d(channels, channels, 3, padding=1)
        self.widen = nn.Conv2d(channels, channels * scale**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)
        self.tail = nn.Conv2d(channels, COLOURS, 3, padding=1)
        for parameter in self.tail.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Map colours in [0, 1], (N, 3, H, W), to (N, 3, scale H, scale W), about in [0, 1]."""
        features = self.head(x - 0.5)
        features = features + self.body_end(self.body(features))
        detail = self.tail(self.shuffle(self.widen(features)))
        coarse = interpolate(x, scale_factor=self.scale, mode="bicubic", align_corners=False)
        return coarse + detail
