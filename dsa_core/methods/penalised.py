"""Training under a penalty that empties channels; SSL and MorphNet differ only in the penalty."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from dsa_core.budget import Budget
from dsa_core.channels import ChannelGraph
from dsa_core.errors import ConfigError
from dsa_core.scheme import Figures, Method, Problem, Scheme

MOMENTUM = 0.9  # assumed if `path_length` is not given


class Penalty(Method):
    """A method that adds a penalty to the loss and removes the channels that become empty.

    A penalty has a strength, not a budget: it is not known in advance how many channels a strength
    empties. In your own loop one strength is tried, and the budget may be missed on either side;
    the command line searches the strength, with a whole training from the same weights per trial.
    `importance` and `anneal_fraction` are not used; every `ratio_every` steps the channels alive
    are recorded.

    Attributes:
        strength: of the penalty (in the first trial); at 1 the penalty alone, without the loss,
            would just empty the average channel by the end of the training.
        path_length: how far SGD moves a weight with gradient 1 in the whole search, the sum of
            lr_t / (1 - momentum); see `trials.path_length`. None: estimated from the learning rate
            of the first step, assuming a linear decay to 0 and momentum 0.9. It has no meaning for
            optimizers that rescale gradients (Adam): expect to try several strengths.
        truncate: a channel is alive while its gate is above this.
        factor: by which the strength changes from trial to trial, until two trials bracket the
            budget.
        tolerance: a trial hits if its cost is at most the budget and at least (1 - tolerance)
            times it.
        max_trials: give up after this many.
    """

    strength: float = Field(default=1.0, gt=0)
    path_length: float | None = Field(default=None, gt=0)
    truncate: float = Field(default=1e-3, gt=0)
    factor: float = Field(default=2.0, gt=1)
    tolerance: float = Field(default=0.02, ge=0, lt=1)
    max_trials: int = Field(default=6, ge=1)

    @property
    def follows_budget(self) -> bool:
        """A penalty has none."""
        return False


class PenaltyScheme(Scheme):
    """Weights train unmasked under a penalty; the budget plays no part in the search."""

    def __init__(self, problem: Problem, method: Penalty) -> None:
        super().__init__(problem)
        self.method = method
        self.lam: float | None = None  # set in the first step of the search
        self.last = 0.0  # penalty of the last step

    @abstractmethod
    def distances(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The penalised quantity of every channel, >= 0, 0 if empty; (n,), differentiable."""

    def pulls(self, distances: Tensor) -> Tensor:
        """Slope of the penalty in every distance at lambda = 1, shape (n,)."""
        return torch.ones_like(distances)

    def gates(self, distances: Tensor) -> Tensor:
        """The quantities compared with `truncate`, from the distances, shape (n,)."""
        return distances

    def penalty(self, step: int, lr: float) -> Tensor:
        """lambda sum_i pull_i d_i, smoothed near 0, shape ().

        Lambda is `strength` times the value that alone, without a loss, would just empty the
        average channel by the end of the search: mean d / mean pull / path length, at the first
        step.

        SGD takes finite steps, so a distance never settles at 0: it oscillates within lr * slope of
        it, which for a large lambda exceeds any threshold. Within that width the penalty is
        therefore a parabola (see `rounded_off`).
        """
        with torch.enable_grad():
            d = self.distances(dict(self.problem.model.named_parameters()))
            pulls = self.pulls(d.detach())
            if self.lam is None:
                guess = lr * self.problem.clock(0)[1] / 2 / (1 - MOMENTUM)
                length = self.method.path_length or guess
                if not length:
                    raise ConfigError(
                        f"{self.method.label}: the first learning rate is 0, from which no path "
                        "length can be estimated: set path_length (see `trials.path_length`)"
                    )
                alone = float(d.detach().mean() / pulls.mean()) / length
                self.lam = self.method.strength * alone
            slopes = self.lam * pulls
            value = (slopes * rounded_off(d, slopes * lr)).sum()
        self.last = float(value.detach()) if self.problem.due(step + 1) else self.last
        return value

    def mask(self, step: int) -> None:
        """None: the weights train as they are."""

    def step(self, step: int, gradient: Tensor, lr: float) -> Figures | None:
        """Record the channels alive, when an update is due."""
        return {"penalty": self.last} if self.problem.due(step + 1) else None

    @torch.no_grad()
    def importance(self, model: nn.Module | None = None) -> Tensor:
        """The gates."""
        model = model or self.problem.model
        return self.gates(self.distances(dict(model.named_parameters())))

    def counts(self, budget: Budget) -> Tensor:
        """Channels alive, raised to the floors and to a multiple of the divisor.

        Unlike in other methods, a remaining budget is not spent: further channels are empty.
        """
        cost = self.problem.cost
        alive = alive_counts(self.importance(), self.method.truncate, self.problem.graph)
        return budget.step_up(torch.maximum(alive, budget.least_counts(cost)), cost.sizes)

    @property
    def keep_ratios(self) -> Tensor:
        """Of the channels currently kept."""
        return self.counts(self.problem.budget).double() / self.problem.cost.sizes

    def notes(self) -> dict[str, Any]:
        """The value of lambda."""
        return {} if self.lam is None else {"penalty_lambda": self.lam}

    def state_dict(self) -> dict[str, Any]:
        """Lambda."""
        return {"lam": self.lam}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it."""
        self.lam = state["lam"]


def rounded_off(d: Tensor, widths: Tensor) -> Tensor:
    """Huber's function of d >= 0: d beyond a width, d^2 / (2 width) + width / 2 within."""
    # autograd multiplies the slope of the branch not taken by 0: it must be finite
    parabola = d.square() / (2 * widths.clamp_min(torch.finfo(d.dtype).tiny)) + widths / 2
    return torch.where(d < widths, parabola, d)


def alive_counts(gates: Tensor, truncate: float, graph: ChannelGraph) -> Tensor:
    """How many gates of every group are above the threshold, int64, shape (K,), on the CPU."""
    alive = (gates > truncate).cpu()
    return torch.stack([part.sum() for part in alive.split(graph.sizes.tolist())])
