"""Where a mask acts: three estimates of the gradient of the keep ratios, and the truth.

Used by notebook 03. What is compared is the gradient of the loss with respect to the keep ratio of
every group, at one network, with one importance and one sharpness.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from course.gradient import Batch, buffers, masked_loss, ratio_gradient
from dsa_core.budget import Budget
from dsa_core.channels import ChannelGraph
from dsa_core.lab.data import Task, classification, load, split
from dsa_core.lab.models.resnet import resnet
from dsa_core.masks import Estimator, estimator_mask, keep_probs, top_channels
from dsa_core.methods import Uniform
from dsa_core.pruner import Pruner
from dsa_core.ranking import importance
from dsa_core.training import TrainConfig, train


@dataclass(frozen=True)
class Probe:
    """A network in training mode, and the point at which its gradient is asked for.

    Attributes:
        model: neither weights nor statistics are changed.
        graph: of the model.
        alpha: keep ratios, shape (K,), float64, in (0, 1].
        b: importance, shape (n,).
        batches: images and labels, all of one size.
        task: gives the loss.
        sharpness: beta2.
    """

    model: nn.Module
    graph: ChannelGraph
    alpha: Tensor
    b: Tensor
    batches: Sequence[Batch]
    task: Task
    sharpness: float

    @torch.no_grad()
    def loss(self, mask: Tensor) -> float:
        """The mean loss over the batches under a mask (n,) at the consumers."""
        losses = [masked_loss(self.model, self.graph, mask, b, self.task) for b in self.batches]
        return float(torch.stack(losses).mean())


def prepare(seed: int) -> Probe:
    """A network of nine groups that learns the digits, then lives under masks for some epochs.

    Three stages of two basic blocks, 8, 16 and 32 wide; uniform keep ratios at .35 of the MACs. The
    gradient is to be asked for at beta2 = 20, on 400 training images that its weights never saw.

    Args:
        seed: of weights, order and masks.
    """
    torch.manual_seed(seed)
    model, task = resnet((2, 2, 2), (8, 16, 32), in_channels=1), classification()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    digits = load("digits")
    weights, held = split(digits.count("train"), 0.7, seed)
    batches = digits.batches("train", indices=weights, seed=seed, batch_size=64, drop_last=True)
    plain = TrainConfig(epochs=3, lr=0.1, precision="fp32", channels_last=False)
    train(model, batches, task, plain, seed=seed, progress=False)
    under = plain.model_copy(update={"epochs": 6, "lr": 0.05, "schedule": "constant"})
    pruner = Pruner(
        model, torch.zeros(1, 1, 8, 8), Budget(macs=0.35), steps=6 * len(batches),
        method=Uniform(), seed=seed,
    )  # fmt: skip
    train(model, batches, task, under, seed=seed, progress=False, pruner=pruner)
    graph, alpha = pruner.graph, pruner.scheme.keep_ratios
    look = digits.batches(
        "train", indices=held, batch_size=400, augment="none", seed=9, drop_last=True
    )
    both = [*look.epoch(0), *look.epoch(1)]
    return Probe(model.train(), graph, alpha, importance(model, graph), both, task, sharpness=20.0)


def finite_difference(probe: Probe) -> Tensor:
    """The truth: dL/dalpha by an eighth of each group's channels more and less, hard masks.

    Group k keeps its c_k + s and its c_k - s most important channels, s = C_k / 8 (at least one);
    all others keep c = round(alpha C). Everything is kept within 1 .. C.

    Returns:
        Shape (K,), float64.
    """
    graph, sizes = probe.graph, probe.graph.sizes
    counts = (probe.alpha * sizes).round().long().clamp_min(1)
    steps = (sizes / 8).round().long().clamp_min(1)
    more, less = torch.minimum(counts + steps, sizes), (counts - steps).clamp_min(1)

    def loss_with(k: int, count: Tensor) -> float:
        changed = counts.clone()
        changed[k] = count
        return probe.loss(top_channels(probe.b, changed, graph).to(probe.b))

    slopes = [
        (loss_with(k, more[k]) - loss_with(k, less[k])) / float((more[k] - less[k]) / sizes[k])
        for k in range(len(sizes))
    ]
    return torch.tensor(slopes, dtype=torch.float64)


def at_the_consumers(probe: Probe, estimator: Estimator, *, passes: int, seed: int) -> Tensor:
    """The mean of dL/dalpha over `passes` batches, the mask on the weights that read a channel.

    Returns:
        Shape (K,), float64.
    """
    draw = torch.Generator().manual_seed(seed)
    return average(
        lambda batch: ratio_gradient(
            probe.model, probe.graph, probe.alpha, probe.b, batch, task=probe.task,
            sharpness=probe.sharpness, estimator=estimator, generator=draw,
        ),
        probe.batches,
        passes,
    )  # fmt: skip


def before_the_relu(probe: Probe, *, passes: int, seed: int) -> Tensor:
    """The mean of the straight-through dL/dalpha with the mask between BatchNorm and ReLU.

    Returns:
        Shape (K,), float64.

    Source: the DSA authors' released code has the mask there.
    """
    draw = torch.Generator().manual_seed(seed)

    def gradient(batch: Batch) -> Tensor:
        alpha = probe.alpha.detach().requires_grad_()
        p = keep_probs(probe.b, alpha, probe.graph, sharpness=probe.sharpness)
        mask = estimator_mask(p, "straight_through", generator=draw)
        return torch.autograd.grad(loss_before_the_relu(probe, mask, batch), alpha)[0]

    return average(gradient, probe.batches, passes)


def loss_before_the_relu(probe: Probe, mask: Tensor, batch: Batch) -> Tensor:
    """The loss on one batch with every BatchNorm's output, its scale and shift, times mask (n,)."""
    state = {name: value.detach() for name, value in probe.model.named_parameters()}
    extended = torch.cat([mask, mask.new_ones(1)])  # place -1: channels that always stay
    for norm in probe.graph.norms:
        for name in filter(None, (norm.weight, norm.bias)):
            state[name] = state[name] * extended[norm.channels]
    outputs = functional_call(probe.model, state | buffers(probe.model), (batch[0],))
    return probe.task.loss(outputs, batch[1])


def average(gradient: Callable[[Batch], Tensor], batches: Sequence[Batch], passes: int) -> Tensor:
    """The mean of a gradient over `passes` batches, taken in turn."""
    return torch.stack([gradient(batches[i % len(batches)]) for i in range(passes)]).mean(0)
