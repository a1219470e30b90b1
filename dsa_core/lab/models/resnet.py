"""Residual networks for small images: one basic block, two shortcuts.

A network is a plain `nn.Sequential`: its forward is its list of modules, and widths occur only
where the layers are created, so a pruned network runs with the same code.

Source: He et al., "Deep residual learning for image recognition", CVPR 2016 (arXiv:1512.03385),
    section 4.2.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Shortcut = Callable[[int, int, int], nn.Module]


class ConvShortcut(nn.Sequential):
    """A strided 1x1 convolution and a BatchNorm: the shortcut with parameters (option B)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        conv = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
        super().__init__(OrderedDict(conv=conv, bn=nn.BatchNorm2d(out_channels)))


class SlicePadShortcut(nn.Module):
    """Every `stride`-th pixel, with zero channels before and after: no parameters (option A).

    The zeros are buffers of shape (1, c, 1, 1), expanded to the image, rather than a call of `pad`:
    pruning then shortens `before` and `after` like any other tensor with a channel axis. They are
    not part of the state dict.
    """

    before: Tensor
    after: Tensor

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        extra = out_channels - in_channels
        self.stride = stride
        self.register_buffer("before", torch.zeros(1, extra // 2, 1, 1), persistent=False)
        self.register_buffer("after", torch.zeros(1, extra - extra // 2, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, before + C + after, ceil(H / stride), ceil(W / stride))."""
        kept = x[:, :, :: self.stride, :: self.stride]
        n, _, height, width = kept.shape
        before = self.before.expand(n, -1, height, width)
        after = self.after.expand(n, -1, height, width)
        return torch.cat([before, kept, after], 1)


class BasicBlock(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1 x)))) + shortcut x), with 3x3 convolutions.

    The shortcut is the identity where neither the stride nor the width changes.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, *, shortcut: Shortcut
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels, 1)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        branch = self.relu(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        return self.relu(branch + self.shortcut(x))


def conv3x3(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d:
    """Make a 3x3 convolution with padding 1 and without bias."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


def resnet(
    blocks: Sequence[int],
    widths: Sequence[int],
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    shortcut: Shortcut = ConvShortcut,
) -> nn.Sequential:
    """Make a residual network with a 3x3 stem of stride 1 (the "CIFAR stem", no max-pooling).

    Stage i has `blocks[i]` basic blocks of `widths[i]` channels; each stage but the first halves
    the image.

    Args:
        blocks: basic blocks in each stage.
        widths: channels of each stage, as many entries as `blocks`.
        num_classes: outputs of the linear layer.
        in_channels: channels of the image.
        shortcut: `ConvShortcut` or `SlicePadShortcut`, used where the shape changes.

    Returns:
        Network with modules conv1, bn1, relu, layer1 .. layerS, pool, flatten, linear; it maps
        (N, in_channels, H, W) to (N, num_classes).
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = conv3x3(in_channels, widths[0], 1)
    layers["bn1"] = nn.BatchNorm2d(widths[0])
    layers["relu"] = nn.ReLU()
    before = widths[0]
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True), start=1):
        first = BasicBlock(before, width, 1 if stage == 1 else 2, shortcut=shortcut)
        rest = [BasicBlock(width, width, 1, shortcut=shortcut) for _ in range(count - 1)]
        layers[f"layer{stage}"] = nn.Sequential(first, *rest)
        before = width
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["linear"] = nn.Linear(before, num_classes)
    return nn.Sequential(layers)
