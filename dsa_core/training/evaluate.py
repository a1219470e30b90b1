"""Measure a network, and re-estimate its BatchNorm statistics."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from dsa_core.errors import ConfigError
from dsa_core.training.batches import BatchSource, Feed, to_device
from dsa_core.training.precision import FP32, Precision, autocast, place
from dsa_core.training.processes import summed
from dsa_core.training.task import Task


@dataclass(frozen=True)
class EvalResult:
    """Averages over examples.

    Attributes:
        loss: mean loss of an example.
        score: the task's first metric, or else the mean score of an example; for classification
            the accuracy in [0, 1].
        n: examples.
        extra: the task's other metrics, by name.
    """

    loss: float
    score: float
    n: int
    extra: dict[str, float] = field(default_factory=dict)


def device_of_model(model: nn.Module) -> torch.device:
    """The device of the model's first parameter; the CPU if it has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def state_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a state dict, by name, without what modules add by `get_extra_state`."""
    return {k: v.detach() for k, v in model.state_dict().items() if isinstance(v, Tensor)}


@contextmanager
def mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Run a block with the whole model in one mode; the mode of every module is restored."""
    before = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, was in before.items():
            module.training = was


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: BatchSource, task: Task, *, precision: Precision = FP32
) -> EvalResult:
    """Measure loss and score over one epoch of batches, in evaluation mode.

    If the task has metrics, the first is the score. The loss is the mean over all examples.

    Args:
        model: the network; its modes come back as they were.
        batches: epoch 0 of them is read; of several processes each reads some of the batches, and
            all get the result of all: call it on every rank.
        task: gives loss and score.
        precision: number format and memory order.
    """
    device = device_of_model(model)
    loss, score, n = torch.zeros((), device=device), torch.zeros((), device=device), 0
    metrics = {name: make().to(device) for name, make in task.metrics.items()}
    with mode(model, training=False):
        for x, y in batches.in_turn():
            x, y = place(x.to(device), precision), y.to(device)
            with autocast(precision, device):
                outputs = model(x)
            loss += task.loss(outputs.float(), y) * len(x)
            for metric in metrics.values():
                metric.update(outputs.float(), y)
            if not metrics:
                score += task.score(outputs, y)
            n += len(x)
    found = {name: float(metric.compute()) for name, metric in metrics.items()}  # over all ranks
    total_loss, total_score, examples = summed(loss, score, n, device=device)
    judged = found.pop(task.judged_by) if found else total_score / examples
    return EvalResult(total_loss / examples, judged, int(examples), found)


@torch.no_grad()
def recalibrate_batchnorm(
    model: nn.Module,
    batches: Feed,
    n_batches: int,
    *,
    run: Callable[[nn.Module, Any], Any] | None = None,
) -> None:
    """Re-estimate the BatchNorm statistics as the plain average over some training batches.

    After a cut or a change of the weights the running mean and variance are outdated. They are
    reset and become  (1/T) sum_t mean_t  and  (1/T) sum_t var_t  over T =
    n_batches batches (cumulative average: momentum None). Weights, momenta and modes stay as they
    were, and so do the statistics of a norm that does not run; in place.

    Args:
        model: the network; layers other than BatchNorm run in evaluation mode (no dropout).
        batches: training batches, with the augmentation of the training.
        n_batches: T, at least 1.
        run: runs the network on a batch, in training mode without dropout; None: on x of pairs
            (x, y).

    Raises:
        ConfigError: n_batches is less than 1.
    """
    if n_batches < 1:
        raise ConfigError(f"n_batches must be at least 1, got {n_batches}")
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    before = [(norm.momentum, copy.deepcopy(dict(norm.named_buffers()))) for norm in norms]
    if not norms:
        return
    device = device_of_model(model)
    try:
        with mode(model, training=run is not None):
            for module in model.modules():
                if isinstance(module, _DropoutNd):
                    module.training = False
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None
                norm.training = True
            for batch in islice(batches.forever(), n_batches):
                batch = to_device(batch, device)
                run(model, batch) if run else model(batch[0])
    finally:
        for norm, (momentum, statistics) in zip(norms, before, strict=True):
            norm.momentum = momentum
            if not norm.num_batches_tracked:  # it did not run
                norm.load_state_dict(statistics, strict=False)
