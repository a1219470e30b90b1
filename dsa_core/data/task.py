"""What a problem is, as far as training is concerned: a loss and a score."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor
from torch.nn.functional import cross_entropy

from dsa_core.errors import ConfigError

LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Task:
    """A problem: the loops of `training` know nothing else about it.

    Attributes:
        name: of the problem.
        loss: (outputs, targets) -> scalar tensor, the mean over the examples of a batch.
        score: (outputs, targets) -> scalar, the *sum* over the examples of a batch, so that an
            average over batches of different sizes is exact; higher is better.
        score_name: what the averaged score is called, such as "accuracy".
        smoothed_loss: (outputs, targets, amount) -> scalar, where the problem knows label
            smoothing.
    """

    name: str
    loss: LossFunction
    score: LossFunction
    score_name: str
    smoothed_loss: Callable[[Tensor, Tensor, float], Tensor] | None = None

    def training_loss(self, label_smoothing: float) -> LossFunction:
        """Give the loss to minimise; reported and validated is always the plain `loss`.

        Raises:
            ConfigError: smoothing is asked of a problem that has none.
        """
        if label_smoothing == 0:
            return self.loss
        if self.smoothed_loss is None:
            raise ConfigError(
                f"task {self.name!r} has no label smoothing: "
                f"set label_smoothing=0, got {label_smoothing}"
            )
        return partial(_smoothed, self.smoothed_loss, label_smoothing)


def classification() -> Task:
    """Make the task of naming one class: cross-entropy, and accuracy as the score."""
    return Task("classification", _cross_entropy, correct, "accuracy", _smoothed_cross_entropy)


def correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """Count the rows of `outputs`, (N, K), whose largest entry is at `targets`, (N,)."""
    return (outputs.argmax(1) == targets).sum()


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(outputs, targets)


def _smoothed_cross_entropy(outputs: Tensor, targets: Tensor, amount: float) -> Tensor:
    return cross_entropy(outputs, targets, label_smoothing=amount)


def _smoothed(
    loss: Callable[[Tensor, Tensor, float], Tensor], amount: float, outputs: Tensor, targets: Tensor
) -> Tensor:
    return loss(outputs, targets, amount)
