"""How a batch becomes a loss: all that the training loop knows of a problem."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from dsa_core.errors import ConfigError
from dsa_core.training.precision import Precision, autocast, place
from dsa_core.training.task import Task

Loss = Callable[[nn.Module, Any], Tensor]
TWO_FORMS = (
    "loss: wanted a scalar tensor from loss(model, batch), or a loss of torch (F.cross_entropy, "
    "nn.MSELoss()), which is called as loss(model(*inputs), targets) on batches (inputs ..., "
    "targets); for a function of outputs and targets of your own say dsa.on_outputs(function)"
)


@dataclass(frozen=True)
class Measured:
    """What one forward pass gave.

    Attributes:
        loss: to minimise, shape (), with a gradient.
        plain: to report, shape (): the loss without what only training adds.
        score: summed over the examples, shape (); None where there is none.
        n: examples.
    """

    loss: Tensor
    plain: Tensor
    score: Tensor | None
    n: int


class Objective(ABC):
    """A problem, as the loop sees it.

    Attributes:
        score_name: what the score is called; "" where there is none.
    """

    score_name: str = ""

    @abstractmethod
    def measure(self, model: nn.Module, batch: Any, precision: Precision) -> Measured:
        """Run the model on a batch."""

    @abstractmethod
    def plain(self, model: nn.Module, batch: Any, precision: Precision) -> Tensor:
        """The loss to report, shape (), with a gradient."""


class TaskObjective(Objective):
    """A `Task` on batches (x, y).

    Args:
        task: loss and score.
        label_smoothing: amount, in the loss to minimise alone.
    """

    def __init__(self, task: Task, label_smoothing: float = 0.0) -> None:
        self.task, self.score_name = task, task.score_name
        self.loss = task.training_loss(label_smoothing)

    def measure(self, model: nn.Module, batch: Any, precision: Precision) -> Measured:
        """Loss, plain loss and score of (x, y)."""
        outputs, y, loss = self._run(model, batch, precision, self.loss)
        with torch.no_grad():
            same = self.loss == self.task.loss
            plain = loss.detach() if same else self.task.loss(outputs.float(), y)
            return Measured(loss, plain, self.task.score(outputs, y), len(y))

    def plain(self, model: nn.Module, batch: Any, precision: Precision) -> Tensor:
        """The task's own loss, in float32 or better."""
        return self._run(model, batch, precision, self._wide)[2]

    def _wide(self, outputs: Tensor, y: Tensor) -> Tensor:
        return self.task.loss(outputs.to(torch.promote_types(outputs.dtype, torch.float32)), y)

    def _run(
        self, model: nn.Module, batch: Any, precision: Precision, loss: Callable[..., Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = device_of_parameters(model)
        x, y = (part.to(device) for part in batch)
        with autocast(precision, device):
            outputs = model(place(x, precision))
            return outputs, y, loss(outputs, y)


class LossObjective(Objective):
    """A loss of somebody's own, `loss(model, batch)`; batches are moved to the model's device."""

    def __init__(self, loss: Loss) -> None:
        self.loss = loss

    def measure(self, model: nn.Module, batch: Any, precision: Precision) -> Measured:
        """The loss; there is no score."""
        loss = self.plain(model, batch, precision)
        return Measured(loss, loss.detach(), None, examples_in(batch))

    def plain(self, model: nn.Module, batch: Any, precision: Precision) -> Tensor:
        """The same.

        Raises:
            ConfigError: it is no loss.
        """
        device = device_of_parameters(model)
        moved = tree_map(lambda v: v.to(device) if isinstance(v, Tensor) else v, batch)
        value = self.loss(model, moved)
        if not isinstance(value, Tensor) or value.numel() != 1:
            came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError(f"{TWO_FORMS}; got {came}")
        return value.reshape(())


def as_loss(loss: Any) -> Loss:
    """`loss(model, batch)` from either form, see `TWO_FORMS`.

    Raises:
        ConfigError: it cannot be called.
    """
    if isinstance(loss, nn.Module) or getattr(loss, "__module__", "") == "torch.nn.functional":
        return on_outputs(loss)
    if not callable(loss):
        raise ConfigError(f"{TWO_FORMS}; got {type(loss).__name__}")
    found: Loss = loss
    return found


def on_outputs(function: Callable[[Any, Any], Tensor]) -> Loss:
    """A loss of outputs and targets as `loss(model, batch)`, on batches (inputs ..., targets).

    Inputs that are a dict are given as keywords.
    """

    def loss(model: nn.Module, batch: Any) -> Tensor:
        if not isinstance(batch, tuple | list) or len(batch) < 2:
            raise ConfigError(
                f"loss: a loss of outputs and targets needs batches (inputs ..., targets), got "
                f"{type(batch).__name__}; write loss(model, batch) yourself"
            )
        *inputs, targets = batch
        if len(inputs) == 1 and isinstance(inputs[0], Mapping):
            return function(model(**inputs[0]), targets)
        return function(model(*inputs), targets)

    return loss


def examples_in(batch: Any) -> int:
    """The length of the first tensor of a batch; 1 if it has none."""
    sizes = [len(v) for v in tree_leaves(batch) if isinstance(v, Tensor) and v.ndim]
    return sizes[0] if sizes else 1


def device_of_parameters(model: nn.Module) -> torch.device:
    """The device of a model's first parameter, the CPU if it has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))
