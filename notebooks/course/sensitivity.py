"""Does an allocation make sense? What each group's loss costs, what its gradient says, ranks."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from torch import Tensor, nn

from course.gradient import ratio_gradient
from dsa_core.channels import ChannelGraph, Group
from dsa_core.errors import ConfigError
from dsa_core.lab.data import BatchSource, Task
from dsa_core.masks import masked, top_channels
from dsa_core.ranking import importance
from dsa_core.training import device_of_model, evaluate, mode, recalibrate_batchnorm

Role = Literal["stem", "shortcut", "strided", "inner"]
MOST_BATCHES = 20  # of a mean gradient


@dataclass(frozen=True)
class Sensitivity:
    """What happens when one group alone is pruned, without any tuning afterwards.

    Attributes:
        names: of the prunable groups, K of them.
        rises: how much the loss rises with group k alone pruned, float64, shape (K,).
    """

    names: tuple[str, ...]
    rises: Tensor


def sensitivity(
    model: nn.Module,
    graph: ChannelGraph,
    batches: BatchSource,
    task: Task,
    *,
    keep: float = 0.8,
    norms: BatchSource | None = None,
) -> Sensitivity:
    """Prune every group alone, and measure the network each time.

    Group k keeps its ceil(keep C_k) channels of largest L1 norm, every other group all of them.

    Args:
        model: a trained network; it is not changed.
        graph: of the model.
        batches: epoch 0 of them is evaluated K + 1 times.
        task: gives the loss.
        keep: keep ratio of the pruned group, in (0, 1].
        norms: training batches; epoch 0 of them recalibrates BatchNorm after each
            cut. None leaves those of the whole network in place, as the paper has it ("no tuning").

    Raises:
        ConfigError: keep is out of range.

    Source: Ning et al., DSA, ECCV 2020 (arXiv:2004.02164): keep 0.8 by the L1 norm.
    """
    if not 0 < keep <= 1:
        raise ConfigError(f"keep must be a ratio in (0, 1], got {keep}")
    whole = evaluate(model, batches, task).loss
    b = importance(model, graph, "l1")
    sizes, device = graph.sizes, device_of_model(model)
    counts = (keep * sizes.double() - 1e-9).ceil().long()
    losses = []
    for k in range(len(sizes)):
        alone = torch.where(torch.arange(len(sizes)) == k, counts, sizes)
        mask = top_channels(b, alone, graph).float().to(device)
        with masked(copy.deepcopy(model), graph, mask) as cut:
            if norms is not None:
                recalibrate_batchnorm(cut, norms, len(norms))
            losses.append(evaluate(cut, batches, task).loss)
    rises = torch.tensor(losses, dtype=torch.float64) - whole
    return Sensitivity(tuple(g.name for g in graph.prunable), rises)


@dataclass(frozen=True)
class RatioGradient:
    """The gradient of the loss with respect to the keep ratios, averaged over batches.

    Attributes:
        mean: dL/dalpha, float64, shape (K,).
        error: standard error of the mean over the batches, shape (K,); NaN for one batch.
    """

    mean: Tensor
    error: Tensor


def mean_ratio_gradient(
    model: nn.Module,
    graph: ChannelGraph,
    batches: BatchSource,
    task: Task,
    *,
    alpha: Tensor,
    sharpness: float = 5.0,
) -> RatioGradient:
    """Average `ratio_gradient` over some batches, at fixed weights and keep ratios.

    Args:
        model: its weights, statistics and mode are not changed.
        graph: of the model.
        batches: the first twenty of epoch 0, or fewer if it has fewer.
        task: gives the loss.
        alpha: keep ratios, shape (K,). At exactly 1 every probability is 1 and the gradient only
            says what the least important channels are worth; a search looks a little below.
        sharpness: beta2.
    """
    b, device = importance(model, graph), device_of_model(model)
    found = []
    with mode(model, training=True):
        for x, y in islice(batches.epoch(0), MOST_BATCHES):
            batch = x.to(device), y.to(device)
            gradient = ratio_gradient(model, graph, alpha, b, batch, task=task, sharpness=sharpness)
            found.append(gradient.double().cpu())
    each = torch.stack(found)
    mean, n = each.mean(0), len(each)
    squares = (each - mean).square().sum(0)
    error = (squares / (n * (n - 1))).sqrt() if n > 1 else torch.full_like(mean, torch.nan)
    return RatioGradient(mean, error)


def softmax_scaled(values: Tensor) -> Tensor:
    """softmax(v / std v): what the DSA paper normalises by before it correlates, shape (K,).

    The standard deviation is that of the K values themselves (divisor K). Equal values give equal
    shares.

    Source: Ning et al., DSA, ECCV 2020 (arXiv:2004.02164).
    """
    spread = values.double().std(correction=0)
    scaled = values.double() / spread if float(spread) > 0 else torch.zeros_like(values.double())
    return scaled.softmax(0)


@dataclass(frozen=True)
class Correlation:
    """How two lists agree: Pearson's r, and Spearman's r of the ranks; in [-1, 1]."""

    pearson: float
    spearman: float


def correlate(first: Sequence[float] | Tensor, second: Sequence[float] | Tensor) -> Correlation:
    """Correlate two lists; equal values share the mean of their ranks.

    Raises:
        ConfigError: the lists differ in length, have fewer than three values, or one is constant,
            so that no correlation exists.
    """
    x, y = (np.asarray(v, dtype=np.float64) for v in (first, second))
    if x.shape != y.shape or x.ndim != 1 or len(x) < 3:
        raise ConfigError(f"wanted two lists of three values or more, got {x.shape} and {y.shape}")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise ConfigError("one of the lists is constant: it ranks nothing, so nothing correlates")
    return Correlation(float(pearsonr(x, y)[0]), float(spearmanr(x, y)[0]))


def role(model: nn.Module, graph: ChannelGraph, group: Group) -> Role:
    """What a group of a residual network is: the claims of the paper are about roles.

    "stem": holds the first layer. "shortcut": several layers write to the same channels, because
    they are added. "strided": made by one convolution with stride, so that its images shrink.
    "inner": any other.
    """
    if graph.layers[0].name in group.members:
        return "stem"
    if len(group.members) > 1:
        return "shortcut"
    producer = model.get_submodule(group.members[0])
    return "strided" if max(getattr(producer, "stride", (1,))) > 1 else "inner"
