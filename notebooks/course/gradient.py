"""The gradient of a loss with respect to the keep ratios, on one batch at fixed weights."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dsa_core.channels import ChannelGraph
from dsa_core.masks import Estimator, estimator_mask, keep_probs, masked_parameters
from dsa_core.training.task import Task

Batch = tuple[Tensor, Tensor]


def ratio_gradient(
    model: nn.Module,
    graph: ChannelGraph,
    alpha: Tensor,
    b: Tensor,
    batch: Batch,
    *,
    task: Task,
    sharpness: float,
    estimator: Estimator = "mean_field",
    generator: torch.Generator | None = None,
) -> Tensor:
    """The gradient of the loss with respect to the keep ratios, on one batch.

    Args:
        model: in training mode: BatchNorm uses the statistics of the batch under the mask. Neither
            its weights nor its statistics are changed.
        graph: of the model.
        alpha: keep ratios, shape (K,).
        b: importance, shape (n,).
        batch: (x, targets), on the model's device.
        task: gives the loss.
        sharpness: beta2.
        estimator: see `masks.estimator_mask`.
        generator: of the mask, for an estimator that samples.

    Returns:
        dL/dalpha, shape (K,), in the type of alpha.
    """
    alpha = alpha.detach().requires_grad_()
    p = keep_probs(b, alpha, graph, sharpness=sharpness)
    mask = estimator_mask(p, estimator, generator=generator)
    return torch.autograd.grad(masked_loss(model, graph, mask, batch, task), alpha)[0]


def masked_loss(
    model: nn.Module, graph: ChannelGraph, mask: Tensor, batch: Batch, task: Task
) -> Tensor:
    """The loss on one batch under a mask (n,), shape (), with a gradient to the mask alone."""
    weights = {name: value.detach() for name, value in model.named_parameters()}
    state = weights | masked_parameters(weights, graph, mask) | buffers(model)
    return task.loss(functional_call(model, state, (batch[0],)), batch[1])


def buffers(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the statistics, for a forward pass in training mode to write to."""
    return {name: value.clone() for name, value in model.named_buffers()}
