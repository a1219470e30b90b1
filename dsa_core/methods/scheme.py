"""What is a method's own in a search: the weights it trains with, and how its keep ratios move."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from dsa_core.allocation import Update
from dsa_core.budget import round_to_channels
from dsa_core.methods.problem import Problem
from dsa_core.ranking import importance
from dsa_core.training import Precision

Batches = Iterator[tuple[Tensor, Tensor]]
CheckFinite = Callable[[str, Tensor], None]


class Scheme(ABC):
    """The part of a search that differs from method to method; `search` does all the rest.

    In every step the loop asks for an `update` where one is due, and then trains the weights with
    `weights` in place of the model's parameters and `penalty` added to the loss. Whatever a scheme
    trains by SGD together with the weights, it names in `parameters`.

    Attributes:
        problem: what is searched.
        check: raises a TrainingError if a named tensor is not finite; set by the loop.
    """

    check: CheckFinite

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @property
    @abstractmethod
    def keep_ratios(self) -> Tensor:
        """The present relaxed keep ratios, shape (K,), float64, on the CPU."""

    def due(self, step: int) -> bool:
        """Whether an update comes before this weight step."""
        after = step - self.problem.warmup
        return after >= 0 and after % self.problem.config.ratio_every == 0

    def updates_before(self, step: int) -> int:
        """Count the updates made before a weight step: as many ratio batches have been read."""
        return sum(self.due(s) for s in range(step))

    @abstractmethod
    def update(self, step: int, batches: Batches, precision: Precision) -> Update:
        """Move the keep ratios once.

        Args:
            step: weight steps done.
            batches: of the part of the data that is not for the weights; take at most one.
            precision: number format of a forward pass.
        """

    def weights(self, step: int, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors to train with instead of the parameters of the same name; none by default."""
        return {}

    def penalty(self, step: int, parameters: Mapping[str, Tensor]) -> Tensor | None:
        """What to add to the loss of a weight step, shape (); nothing by default."""
        return None

    def parameters(self) -> list[dict[str, Any]]:
        """Parameter groups for the weights' SGD, as `torch.optim.SGD` takes them."""
        return []

    def importance(self) -> Tensor:
        """What ranks the channels of a group, shape (n,), on the model's device."""
        b = importance(self.problem.model, self.problem.graph, self.problem.config.importance)
        self.check("the importance of a channel", b)
        return b

    def counts(self) -> Tensor:
        """Whole channels kept of every group, int64, shape (K,), at the end."""
        return round_to_channels(self.keep_ratios, self.problem.cost, self.problem.budget)

    def notes(self) -> dict[str, Any]:
        """What the method wants recorded."""
        return {}

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything of its own that the next step depends on: tensors, numbers, text."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state; the next steps are the same to the bit."""
