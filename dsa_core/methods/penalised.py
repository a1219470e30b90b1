"""Training under a penalty that empties channels; SSL and MorphNet differ in the penalty alone."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from dsa_core.budget import Budget
from dsa_core.channels import ChannelGraph
from dsa_core.scheme import Figures, Method, Problem, Scheme

MOMENTUM = 0.9  # assumed of an optimizer whose path is not told


class Penalty(Method):
    """A method that adds a penalty to the loss, and removes the channels that it has emptied.

    A penalty has a strength, not a budget: nothing tells beforehand how many channels a strength
    will empty. In your own loop one strength is tried, and the budget may be missed on either side;
    the command line searches the strength, each trial a whole training from the same weights.
    What a channel must fall below is a matter of `truncate`. `importance` and `anneal_fraction`
    have no meaning here; every `ratio_every` steps it is noted which channels are alive.

    Attributes:
        strength: of the penalty (of the first trial); 1 is the guess that the penalty, were there
            no loss, would just empty the average channel by the end of the training.
        path_length: how far SGD moves a weight whose gradient stays 1 in the whole search,
            sum of lr_t / (1 - momentum); see `path_length`. None: guessed from the learning rate of
            the first step, as if it fell linearly to 0 and the momentum were 0.9. For an optimizer
            that rescales gradients (Adam) no length is right: expect to try several strengths.
        truncate: a channel is alive while its gate is above this.
        factor: of the search for the strength: from one trial to the next, until the budget lies
            between two.
        tolerance: a trial hits if its cost is at most the budget and at least (1 - tolerance)
            times it.
        max_trials: give up after so many.
    """

    follows_budget: ClassVar[bool] = False

    strength: float = Field(default=1.0, gt=0)
    path_length: float | None = Field(default=None, gt=0)
    truncate: float = Field(default=1e-3, gt=0)
    factor: float = Field(default=2.0, gt=1)
    tolerance: float = Field(default=0.02, ge=0, lt=1)
    max_trials: int = Field(default=6, ge=1)


class PenaltyScheme(Scheme):
    """Weights train as they are, under a penalty; nothing is masked, and no budget is looked at.

    The channels kept are those alive at the end; floors, the divisor and one channel a group hold
    all the same.

    Args:
        problem: what is searched.
        method: settings.
    """

    def __init__(self, problem: Problem, method: Penalty) -> None:
        super().__init__(problem)
        self.method = method
        self.lam: float | None = None  # from the first step of the search on
        self.last = 0.0  # penalty of the last step

    @abstractmethod
    def distances(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """What is penalised of every channel, >= 0, 0 if it is empty; (n,), with a gradient."""

    def pulls(self, distances: Tensor) -> Tensor:
        """The penalty's slope in every distance, for lambda = 1, shape (n,)."""
        return torch.ones_like(distances)

    def gates(self, distances: Tensor) -> Tensor:
        """What is compared with `truncate`, from the distances, shape (n,)."""
        return distances

    def penalty(self, step: int, lr: float) -> Tensor:
        """Lambda sum_i pull_i d_i, rounded off near 0, shape ().

        Lambda is `strength` times what would, without a loss, just empty the average channel by the
        end of the search: mean d / mean pull / path length, at the first step.

        Steps of SGD have a length: a distance never comes to rest at 0, but goes to and fro within
        lr * slope of it, for a large lambda above any threshold. So within that width the penalty
        is a parabola (see `rounded_off`), as the slope of ||w|| at 0 is anybody's choice.
        """
        with torch.enable_grad():
            d = self.distances(dict(self.problem.model.named_parameters()))
            pulls = self.pulls(d.detach())
            if self.lam is None:
                alone = float(d.detach().mean() / pulls.mean()) / self._path_length(lr)
                self.lam = self.method.strength * alone
            slopes = self.lam * pulls
            value = (slopes * rounded_off(d, slopes * lr)).sum()
        self.last = float(value.detach()) if self.problem.due(step + 1) else self.last
        return value

    def _path_length(self, lr: float) -> float:
        guess = lr * self.problem.clock(0)[1] / 2 / (1 - MOMENTUM)
        return self.method.path_length or guess

    def mask(self, step: int) -> None:
        """None: the weights train as they are."""

    def step(self, step: int, gradient: Tensor, lr: float) -> Figures | None:
        """Look at what is alive, where that is due."""
        return {"penalty": self.last} if self.problem.due(step + 1) else None

    @torch.no_grad()
    def importance(self, model: nn.Module | None = None) -> Tensor:
        """The gates."""
        model = model or self.problem.model
        return self.gates(self.distances(dict(model.named_parameters())))

    def counts(self, budget: Budget) -> Tensor:
        """Channels alive, raised to the floors and to a multiple of the divisor.

        What they leave of the budget is not spent, unlike with other methods: a channel beyond them
        is empty.
        """
        cost = self.problem.cost
        alive = alive_counts(self.importance(), self.method.truncate, self.problem.graph)
        return budget.step_up(torch.maximum(alive, budget.least_counts(cost)), cost.sizes)

    @property
    def keep_ratios(self) -> Tensor:
        """Of the channels kept."""
        return self.counts(self.problem.budget).double() / self.problem.cost.sizes

    def notes(self) -> dict[str, Any]:
        """What the strength is in plain numbers."""
        return {} if self.lam is None else {"penalty_lambda": self.lam}

    def state_dict(self) -> dict[str, Any]:
        """Lambda."""
        return {"lam": self.lam}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it over."""
        self.lam = state["lam"]


def rounded_off(d: Tensor, widths: Tensor) -> Tensor:
    """Huber's function: d beyond a width, d^2 / (2 width) + width / 2 within.

    Args:
        d: distances >= 0, shape (n,).
        widths: >= 0, shape (n,); 0 rounds nothing off.
    """
    # where d is taken, autograd still multiplies the parabola's slope by 0: it must be finite
    parabola = d.square() / (2 * widths.clamp_min(torch.finfo(d.dtype).tiny)) + widths / 2
    return torch.where(d < widths, parabola, d)


def alive_counts(gates: Tensor, truncate: float, graph: ChannelGraph) -> Tensor:
    """How many gates of every group are above the threshold, int64, shape (K,), on the CPU."""
    alive = (gates > truncate).cpu()
    return torch.stack([part.sum() for part in alive.split(graph.sizes.tolist())])
