"""A task, as training sees it: a loss, a quick score, and metrics."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn.functional import cross_entropy

from dsa_core.errors import ConfigError

if TYPE_CHECKING:
    from torchmetrics import Metric

LossFunction = Callable[[Tensor, Tensor], Tensor]
PERCENT = "%"


@dataclass(frozen=True)
class Task:
    """A task: all that training and evaluation know about a problem.

    A training reports `score`, which is cheap. A network is judged by the first of `metrics`, if
    there are any: not every score is a sum over examples (an intersection over union is a ratio of
    sums over all pixels of all images).

    Attributes:
        name: of the task.
        loss: (outputs, targets) -> scalar tensor, the mean over the examples of a batch.
        score: (outputs, targets) -> scalar, the *sum* over the examples of a batch, so that an
            average over batches of different sizes is exact; higher is better.
        score_name: name of the averaged score, such as "accuracy".
        smoothed_loss: (outputs, targets, amount) -> scalar, if the task has label smoothing.
        metrics: name -> a function that creates an accumulator (of torchmetrics); the first one
            judges, the others are also reported. Empty: the averaged `score` judges.
        unit: of the judging score: "%" (it lies in [0, 1] and is shown times 100), or "dB", say.
    """

    name: str
    loss: LossFunction
    score: LossFunction
    score_name: str
    smoothed_loss: Callable[[Tensor, Tensor, float], Tensor] | None = None
    metrics: Mapping[str, Callable[[], "Metric"]] = field(default_factory=dict)
    unit: str = PERCENT

    @property
    def judged_by(self) -> str:
        """Name of the score that an evaluation reports."""
        return next(iter(self.metrics), self.score_name)

    def show(self, score: float) -> str:
        """A score as text: "91.73 %", "32.05 dB"."""
        return with_unit(score, self.unit)

    def training_loss(self, label_smoothing: float) -> LossFunction:
        """The loss to minimise; reports and validation always use the plain `loss`.

        Raises:
            ConfigError: the task has no label smoothing.
        """
        if label_smoothing == 0:
            return self.loss
        if self.smoothed_loss is None:
            raise ConfigError(
                f"task {self.name!r} has no label smoothing: "
                f"set label_smoothing=0, got {label_smoothing}"
            )
        smoothed = self.smoothed_loss
        return lambda outputs, targets: smoothed(outputs, targets, label_smoothing)


def in_unit(score: float, unit: str) -> float:
    """The number before the unit: a share of 1 times 100, anything else unchanged."""
    return 100 * score if unit == PERCENT else score


def with_unit(score: float, unit: str) -> str:
    """A score as text, with two decimals and its unit."""
    return f"{in_unit(score, unit):.2f} {unit}".rstrip()


def classification() -> Task:
    """Classification: cross-entropy, with accuracy as the score."""
    return Task("classification", cross_entropy, correct, "accuracy", _smoothed_cross_entropy)


def correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """Count the rows of `outputs`, (N, K), whose largest entry is at `targets`, (N,)."""
    return (outputs.argmax(1) == targets).sum()


def _smoothed_cross_entropy(outputs: Tensor, targets: Tensor, amount: float) -> Tensor:
    return cross_entropy(outputs, targets, label_smoothing=amount)
