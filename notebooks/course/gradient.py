"""The gradient of the validation loss with respect to the keep ratios."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dsa_core.channels import ChannelGraph
from dsa_core.masks import Estimator, estimator_mask, keep_probs, masked_parameters
from dsa_core.training import Precision, autocast, place
from dsa_core.training.processes import average
from dsa_core.training.task import Task


def ratio_gradient(
    model: nn.Module,
    graph: ChannelGraph,
    alpha: Tensor,
    b: Tensor,
    batch: tuple[Tensor, Tensor],
    *,
    task: Task,
    sharpness: float,
    estimator: Estimator,
    precision: Precision,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """The gradient of the validation loss with respect to the keep ratios, on one batch.

    BatchNorm uses the statistics of the batch under the mask, as the weights' training does; the
    running ones are not touched (open in the paper).

    Args:
        model: in training mode; neither its weights nor its statistics are changed.
        graph: of the model.
        alpha: keep ratios, shape (K,).
        b: importance, shape (n,).
        batch: (x, targets), on the model's device.
        task: gives the loss.
        sharpness: beta2.
        estimator: see `masks.estimator_mask`.
        precision: number format of the forward pass.
        generator: of the mask, for an estimator that samples.

    Returns:
        dL/dalpha, shape (K,), in the type of alpha; and the loss, shape (); both averaged over the
        processes of a group.
    """
    alpha = alpha.detach().requires_grad_()
    p = keep_probs(b, alpha, graph, sharpness=sharpness)
    mask = estimator_mask(p, estimator, generator=generator)
    loss = masked_loss(model, graph, mask, batch, task=task, precision=precision)
    (gradient,) = torch.autograd.grad(loss, alpha)
    loss = loss.detach()
    average([gradient, loss])
    return gradient, loss


def masked_loss(
    model: nn.Module,
    graph: ChannelGraph,
    mask: Tensor,
    batch: tuple[Tensor, Tensor],
    *,
    task: Task,
    precision: Precision,
) -> Tensor:
    """The loss on one batch under a mask (n,), shape (), with a gradient to the mask alone.

    Neither weights nor BatchNorm statistics are changed.
    """
    weights = {name: value.detach() for name, value in model.named_parameters()}
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    state = weights | masked_parameters(weights, graph, mask) | buffers
    x, y = batch
    with autocast(precision, x.device):
        outputs = functional_call(model, state, (place(x, precision),))
        return task.loss(outputs.to(torch.promote_types(outputs.dtype, torch.float32)), y)
