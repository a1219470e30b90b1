"""The objective of a training: a `Task` on pairs (x, y), or a user's loss on any batches."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dsa_core.errors import ConfigError
from dsa_core.training.batches import Batch, examples_in
from dsa_core.training.config import TrainConfig
from dsa_core.training.optimizer import trainable
from dsa_core.training.precision import FP32, Precision, autocast, choose_precision, place
from dsa_core.training.task import Task

FORMS = (
    "Two forms are accepted: a function of (outputs, targets) that returns a scalar, such as "
    "F.cross_entropy, for batches (inputs, ..., targets); or a function of (model, batch) whose "
    "first parameter is named `model`, for any batch: lambda model, batch: model(**batch).loss"
)


@dataclass(frozen=True)
class Measured:
    """One forward pass.

    Attributes:
        loss: to minimise, shape ().
        shown: the reported loss, shape (), no gradient; never smoothed.
        score: sum over the examples, shape (), no gradient; 0 if nothing is scored.
        n: number of examples.
    """

    loss: Tensor
    shown: Tensor
    score: Tensor
    n: int


class TaskObjective:
    """The loss and the score of a task, on pairs (x, y).

    Attributes:
        score_name: name of the score.
    """

    def __init__(self, task: Task, label_smoothing: float = 0.0) -> None:
        self.task, self.score_name = task, task.score_name
        self.training_loss = task.training_loss(label_smoothing)

    def precision(self, model: nn.Module, batch: Batch, config: TrainConfig) -> Precision:
        """The fastest format that the configuration allows."""
        x, y = batch
        return choose_precision(
            model,
            x,
            loss=lambda outputs: self.training_loss(outputs, y),
            precision=config.precision,
            channels_last=config.channels_last,
        )

    def measure(self, model: nn.Module, batch: Batch, precision: Precision) -> Measured:
        """Run the network; the loss may be smoothed, the reported one is not."""
        x, y = batch
        with autocast(precision, x.device):
            outputs = model(place(x, precision))
            loss = self.training_loss(outputs, y)
        with torch.no_grad():
            same = self.training_loss is self.task.loss
            shown = loss.detach() if same else self.task.loss(outputs.float(), y)
            return Measured(loss, shown, self.task.score(outputs, y), len(x))

    def loss(self, model: nn.Module, batch: Batch, precision: Precision) -> Tensor:
        """The task's own loss, of outputs in float32 or float64."""
        x, y = batch
        with autocast(precision, x.device):
            outputs = model(place(x, precision))
        return self.task.loss(outputs.to(torch.promote_types(outputs.dtype, torch.float32)), y)


class LossObjective:
    """A user's loss, in one of two forms; nothing is scored, and nothing is cast.

        loss(model, batch)      if its first parameter is named `model`: any batch
        loss(outputs, targets)  otherwise: batches (inputs, ..., targets)

    A loss mistaken for the other form cannot run: a network is not a tensor. `try_on` finds that
    before the training.

    Args:
        loss: a function or a module.

    Raises:
        ConfigError: it is neither of them.
    """

    score_name = ""  # nothing is scored

    def __init__(self, loss: Callable[..., Tensor]) -> None:
        if not callable(loss) or isinstance(loss, type):
            raise ConfigError(f"loss: wanted a function or a module, got {loss!r}. {FORMS}")
        self.function, self.general = loss, first_parameter(loss) == "model"

    def precision(self, model: nn.Module, batch: Any, config: TrainConfig) -> Precision:
        """Float32: users who want autocast put it into the loss."""
        return FP32

    def measure(self, model: nn.Module, batch: Any, precision: Precision) -> Measured:
        """Run the network through the loss."""
        loss = self.loss(model, batch, precision)
        return Measured(loss, loss.detach(), loss.new_zeros(()), examples_in(batch))

    def loss(self, model: nn.Module, batch: Any, precision: Precision = FP32) -> Tensor:
        """The loss of a batch, shape ()."""
        if self.general:
            return self.function(model, batch)
        if not isinstance(batch, tuple | list) or len(batch) < 2:
            raise ConfigError(f"loss: a batch is a {type(batch).__name__}. {FORMS}")
        inputs = batch[0] if len(batch) == 2 else batch[:-1]
        return self.function(call(model, inputs), batch[-1])

    def try_on(self, model: nn.Module, batch: Any) -> None:
        """Run a batch once, so that a wrong loss is found before the training.

        Raises:
            ConfigError: it fails, or does not return a scalar with a gradient; says how it was
                called.
        """
        how = "loss(model, batch)" if self.general else "loss(outputs, targets)"
        try:
            loss = self.loss(model, batch)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                f"loss: called as {how} on the first batch it raised {type(error).__name__}: "
                f"{error}. {FORMS}"
            ) from error
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            kind = type(loss).__name__
            found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else kind
            raise ConfigError(
                f"loss: called as {how} it returned {found}, wanted a scalar tensor. {FORMS}"
            )
        if not reaches(loss, model):
            raise ConfigError(
                f"loss: what {how} returned has no gradient in the network that is trained, which "
                "is a copy of yours: use the `model` that the loss is given, and neither detach() "
                "nor no_grad()"
            )


Objective = TaskObjective | LossObjective  # the only code that knows the contents of a batch


def reaches(loss: Tensor, model: nn.Module) -> bool:
    """Whether a loss has a gradient in some parameter of a network."""
    parameters = trainable(model)
    if not (parameters and loss.requires_grad):
        return False
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return any(gradient is not None for gradient in found)


def first_parameter(function: Callable[..., Any]) -> str:
    """Name of the first parameter of a function or a module's forward; "" if unknown."""
    try:
        return next(iter(inspect.signature(getattr(function, "forward", function)).parameters), "")
    except ValueError:  # a function in C
        return ""


def call(model: nn.Module, inputs: Any) -> Any:
    """Run a network on one input, on a tuple or list of inputs, or on a dict of named ones."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)
