"""A convolution or linear layer as a matrix: outputs = [rows, 1] @ matrix.

Shapes: g groups of the layer, N rows (a place of the output of one example each), d inputs and o
outputs of a group.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
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
        n_axes = len(layer.kernel_size)
        windows = transposed_windows(layer, x, y) if layer.transposed else windows_of(layer, x)
        windows = windows.movedim(1, 1 + n_axes).flatten(0, n_axes)  # (N, channels, *kernel)
        rows = windows.reshape(len(windows), layer.groups, -1).movedim(1, 0)
    return rows[:, :: step_of(rows.shape[1])]


def windows_of(layer: _ConvNd, x: Tensor) -> Tensor:
    """The window of the input under each output: (n, channels, *places, *kernel)."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    return slide(layer, x, layer.stride)


def transposed_windows(layer: _ConvNd, x: Tensor, y: Tensor) -> Tensor:
    """The same for a transposed convolution.

    It is a convolution, its kernel reversed, of the input with stride - 1 zeros between neighbours.
    """
    axes = range(len(layer.kernel_size))
    lengths = [layer.stride[a] * (x.shape[2 + a] - 1) + 1 for a in axes]
    spread = x.new_zeros(*x.shape[:2], *lengths)
    every = tuple(slice(None, None, step) for step in layer.stride)
    spread[:, :, *every] = x
    around: list[int] = []
    for a in reversed(axes):
        reach = layer.dilation[a] * (layer.kernel_size[a] - 1)
        before = reach - int(layer.padding[a])
        around += [before, y.shape[2 + a] + reach - before - lengths[a]]
    ones = (1,) * len(lengths)
    return slide(layer, pad(spread, around), ones).flip([-1 - a for a in axes])


def slide(layer: _ConvNd, x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """All windows of a padded input: (n, channels, *places, *kernel)."""
    for a, (size, dilation) in enumerate(zip(layer.kernel_size, layer.dilation, strict=True)):
        x = x.unfold(2 + a, dilation * (size - 1) + 1, stride[a])[..., ::dilation]
    return x


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
