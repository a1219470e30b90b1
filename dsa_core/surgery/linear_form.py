"""A convolution or linear layer as a matrix: outputs = [rows, 1] @ matrix.

Shapes: g groups of the layer, N rows (a place of the output of one example each), d inputs and o
outputs of a group.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

POSITIONS = 100_000  # rows taken from a batch at the most; larger maps are thinned evenly
Fitted = _ConvNd | nn.Linear


def rows_of(layer: Fitted, x: Tensor, y: Tensor) -> Tensor:
    """What each output is a linear function of, without the 1, thinned evenly: (g, N, d).

    Args:
        layer: with zeros, copies or nothing around its input, of any stride and dilation.
        x: its input.
        y: its output for x; only its shape is read.
    """
    if isinstance(layer, nn.Linear):
        rows = x.reshape(1, -1, x.shape[-1])
    else:
        read = pixels_read(layer, x, y)
        every = (len(x), len(read), x.shape[1], -1)
        pixels = F.pad(x.flatten(2), (1, 0))[:, None].expand(every)  # number 0 is outside of x
        windows = pixels.gather(3, read[None, :, None].expand(every))
        rows = windows.reshape(len(x) * len(read), layer.groups, -1).movedim(1, 0)
    return rows[:, :: step_of(rows.shape[1])]


def pixels_read(layer: _ConvNd, x: Tensor, y: Tensor) -> Tensor:
    """Number of the pixel that each entry of the kernel reads, or 0: (pixels of y, entries).

    An image of the numbers 1, 2, ... goes through the layer with unit kernels, one for each entry.
    """
    size, axes = math.prod(layer.kernel_size), len(layer.kernel_size)
    numbers = torch.arange(1.0, x[0, 0].numel() + 1, dtype=torch.float64).view(1, 1, *x.shape[2:])
    units = torch.eye(size, dtype=torch.float64).view(size, 1, *layer.kernel_size)
    steps: Any = {"stride": layer.stride, "dilation": layer.dilation}
    if layer.transposed:
        apply = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[axes - 1]
        whole = apply(numbers, units.transpose(0, 1), **steps)
        around: list[int] = []
        for a in reversed(range(axes)):
            before = int(layer.padding[a])
            around += [-before, before + y.shape[2 + a] - whole.shape[2 + a]]
        found = F.pad(whole, around)
    else:
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        numbers = F.pad(numbers, layer._reversed_padding_repeated_twice, mode=mode)
        found = (F.conv1d, F.conv2d, F.conv3d)[axes - 1](numbers, units, **steps)
    return found.reshape(size, -1).mT.long().to(x.device)


def targets_of(layer: Fitted, y: Tensor, kept: Tensor) -> Tensor:
    """The kept outputs, in the order of `rows_of`: (g, N, o)."""
    kept = kept.to(y.device)
    if isinstance(layer, nn.Linear):
        rows = y[..., kept].reshape(1, -1, int(kept.sum()))
    else:
        chosen = y[:, kept].flatten(2).mT.flatten(0, 1)  # (N, outputs)
        rows = chosen.reshape(len(chosen), layer.groups, -1).movedim(1, 0)
    return rows[:, :: step_of(rows.shape[1])]


def step_of(rows: int) -> int:
    """The stride at which rows are taken."""
    return max(1, -(-rows // POSITIONS))


def matrix_of(layer: Fitted) -> Tensor:
    """The layer's weights and, as the last row, its bias: (g, d + 1, o), float64."""
    groups, weight = getattr(layer, "groups", 1), layer.weight.double()
    if getattr(layer, "transposed", False):  # (inputs, o, *kernel)
        weight = weight.unflatten(0, (groups, -1)).movedim(2, -1)
        matrix = weight.flatten(1, -2)
    else:
        matrix = weight.reshape(groups, len(weight) // groups, -1).mT
    bias = torch.zeros(groups * matrix.shape[2]) if layer.bias is None else layer.bias
    return torch.cat([matrix, bias.to(matrix).reshape(groups, 1, -1)], 1)


def put_matrix(layer: Fitted, matrix: Tensor, norm: nn.Module | None) -> None:
    """Give a layer the weights of a matrix (g, d + 1, o).

    The last row goes into the bias or, without one, into the mean of the BatchNorm behind.
    """
    weights, constant = matrix[:, :-1], matrix[:, -1].reshape(-1)
    if getattr(layer, "transposed", False):
        kernel: Any = layer.kernel_size
        weights = weights.unflatten(1, (-1, *kernel)).movedim(-1, 2)
    else:
        weights = weights.mT
    layer.weight.copy_(weights.reshape(layer.weight.shape))
    if layer.bias is not None:
        layer.bias.copy_(constant)
    elif norm is not None:
        mean: Any = norm.running_mean
        mean.sub_(constant.to(mean))
