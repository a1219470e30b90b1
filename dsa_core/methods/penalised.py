"""Training under a penalty that empties channels, repeated until what is left meets a budget.

A penalty has a strength, not a budget: nothing tells beforehand how many channels a strength will
empty. So the strength is searched, and every trial is a whole training from the same weights; its
seconds and epochs count. SSL and MorphNet differ in the penalty and in what they call empty.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsa_core.allocation import Allocation, Update
from dsa_core.errors import TrainingError
from dsa_core.methods.bracket import Look, best_look, hits, next_strength
from dsa_core.methods.config import OnStep
from dsa_core.methods.problem import Problem
from dsa_core.methods.scheme import Batches, Scheme
from dsa_core.methods.search import search
from dsa_core.methods.settings.bracket import BracketSettings
from dsa_core.training import Precision, load_checkpoint, lr_at, save_checkpoint
from dsa_core.training.stopwatch import total_time


class PenaltyScheme(Scheme):
    """Weights train as they are, under a penalty; nothing is masked, and no budget is looked at.

    An update is a look at how many channels are alive. The channels kept are those alive at the
    end; floors, the divisor and one channel a group hold all the same.

    Args:
        problem: what is searched; its model has the weights that the trial starts from.
        strength: of the penalty, see `lam`.
        truncate: a channel is alive while its gate is above this.
    """

    def __init__(self, problem: Problem, strength: float, *, truncate: float) -> None:
        super().__init__(problem)
        self.strength, self.truncate = strength, truncate
        with torch.no_grad():
            d = self.distances(dict(problem.model.named_parameters()))
            alone = float(d.mean() / self.pulls(d).mean()) / way_to_zero(problem)
        self.lam = strength * alone

    @abstractmethod
    def distances(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """What is penalised of every channel, >= 0, 0 if it is empty; (n,), with a gradient."""

    def pulls(self, distances: Tensor) -> Tensor:
        """The penalty's slope in every distance, for lambda = 1, shape (n,)."""
        return torch.ones_like(distances)

    def gates(self, distances: Tensor) -> Tensor:
        """What is compared with `truncate`, from the distances, shape (n,)."""
        return distances

    def penalty(self, step: int, parameters: Mapping[str, Tensor]) -> Tensor:
        """Lambda sum_i pull_i d_i, rounded off near 0, shape ().

        Lambda is `strength` times what would, without a loss, just empty the average channel by the
        end of the search.

        Steps of SGD have a length: a distance never comes to rest at 0, but goes to and fro within
        lr * slope of it, for a large lambda above any threshold. So within that width the penalty
        is a parabola (see `rounded_off`), as the slope of ||w|| at 0 is anybody's choice.
        """
        problem, d = self.problem, self.distances(parameters)
        slopes = self.lam * self.pulls(d.detach())
        total = problem.config.train.epochs * problem.per_epoch
        widths = slopes * lr_at(step, total, problem.per_epoch, problem.config.train)
        return (slopes * rounded_off(d, widths)).sum()

    @torch.no_grad()
    def importance(self) -> Tensor:
        """The gates."""
        b = self.gates(self.distances(dict(self.problem.model.named_parameters())))
        self.check("the norm of a channel", b)
        return b

    def notes(self) -> dict[str, Any]:
        """What the strength is in plain numbers."""
        return {"penalty_lambda": self.lam}

    def counts(self) -> Tensor:
        """Channels alive, raised to the floors and to a multiple of the divisor.

        What they leave of the budget is not spent, unlike with other methods: a channel beyond them
        is empty.
        """
        cost, budget = self.problem.cost, self.problem.budget
        alive = alive_counts(self.importance(), self.truncate, self.problem)
        return budget.step_up(torch.maximum(alive, budget.least_counts(cost)), cost.sizes)

    @property
    def keep_ratios(self) -> Tensor:
        """Of the channels kept."""
        return self.counts().double() / self.problem.cost.sizes

    def update(self, step: int, batches: Batches, precision: Precision) -> Update:
        """Look at what is alive."""
        alpha = self.keep_ratios
        return Update(
            step=step,
            budget=self.problem.budget.ratio,
            cost=float(self.problem.form(alpha)),
            sharpness=torch.nan,
            inexactness=0.0,
            loss=torch.nan,
            price=torch.nan,
            price_spread=0.0,
            primal=0.0,
            dual=0.0,
            keep_ratios=tuple(alpha.tolist()),
        )

    def state_dict(self) -> dict[str, Any]:
        """The strength, to know the trial again."""
        return {"strength": self.strength}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing is taken over.

        Raises:
            TrainingError: the checkpoint is of a trial with another strength.
        """
        if state["strength"] != self.strength:
            raise TrainingError(
                f"the checkpoint is of a trial at strength {state['strength']:g}, this one is at "
                f"{self.strength:g}: remove the checkpoints of this search to start anew"
            )


def way_to_zero(problem: Problem) -> float:
    """How far SGD moves a weight under a gradient of 1 during the whole search.

    With momentum mu a gradient that does not change moves it by  sum_t lr_t / (1 - mu).
    """
    train, total = problem.config.train, problem.clock(0)[1] + problem.warmup
    rates = (lr_at(t, total, problem.per_epoch, train) for t in range(problem.warmup, total))
    return sum(rates) / (1 - train.momentum)


def rounded_off(d: Tensor, widths: Tensor) -> Tensor:
    """Huber's function: d beyond a width, d^2 / (2 width) + width / 2 within.

    Args:
        d: distances >= 0, shape (n,).
        widths: >= 0, shape (n,); 0 rounds nothing off.
    """
    # where d is taken, autograd still multiplies the parabola's slope by 0: it must be finite
    parabola = d.square() / (2 * widths.clamp_min(torch.finfo(d.dtype).tiny)) + widths / 2
    return torch.where(d < widths, parabola, d)


def alive_counts(gates: Tensor, truncate: float, problem: Problem) -> Tensor:
    """How many gates of every group are above the threshold, int64, shape (K,), on the CPU."""
    alive = (gates > truncate).cpu()
    return torch.stack([part.sum() for part in alive.split(problem.graph.sizes.tolist())])


@dataclass(frozen=True)
class Trials:
    """Trainings of one network from the same weights, at one strength after the other.

    Attributes:
        problem: what is searched.
        make: strength -> the scheme of a trial.
        settings: of the search for the strength.
    """

    problem: Problem
    make: Callable[[float], PenaltyScheme]
    settings: BracketSettings

    def run(self, on_step: OnStep | None) -> Allocation:
        """Train until a trial hits the budget or there have been `max_trials`.

        Taken is the costliest network within the budget, else the cheapest; its weights are in the
        model at the end. All trials run in the number format of the first. A run that was killed
        finds each trial's checkpoint and passes through the finished ones at once, so that it ends
        with the same bits.
        """
        start, limit = self._start(), self.problem.budget.ratio
        found: list[Allocation] = []
        looks: list[Look] = []
        kept = start
        while len(looks) < self.settings.max_trials:
            strength = self._next(looks)
            if strength is None:
                break
            self.problem.model.load_state_dict(start)
            trial = self._trial(len(looks))
            precision = Precision.noted(found[0].notes) if found else None
            found.append(search(trial, self.make(strength), on_step, precision=precision))
            looks.append(Look(strength, found[-1].whole_ratio(self.problem.budget.resource)))
            if best_look(looks, limit) == len(looks) - 1:
                kept = copied(self.problem.model.state_dict())
            if found[-1].notes["stopped"]:
                break
        self.problem.model.load_state_dict(kept)
        return self._joined(found, looks)

    def _next(self, looks: list[Look]) -> float | None:
        s = self.settings
        limit = self.problem.budget.ratio
        return next_strength(looks, limit, first=s.strength, factor=s.factor, tolerance=s.tolerance)

    def _trial(self, number: int) -> Problem:
        """The problem with a checkpoint of the trial's own."""
        data = self.problem.data
        path = data.checkpoint and beside(data.checkpoint, f"trial{number}")
        return replace(self.problem, data=replace(data, checkpoint=path))

    def _start(self) -> dict[str, Tensor]:
        """The weights that every trial starts from: those of the first call, if it was killed."""
        path = self.problem.data.checkpoint
        if path is None:
            return copied(self.problem.model.state_dict())
        file, mine = beside(path, "start"), self.problem.fingerprint()
        if not file.exists():
            state = {"fingerprint": mine, "model": self.problem.model.state_dict()}
            save_checkpoint(file, state)
        device = self.problem.device
        return {k: v.to(device) for k, v in load_checkpoint(file, mine)["model"].items()}

    def _joined(self, found: list[Allocation], looks: list[Look]) -> Allocation:
        """The chosen trial's allocation, with the cost of all of them.

        An epoch's `trial` counts from 0, `penalty_trial_taken` from 1.
        """
        limit = self.problem.budget.ratio
        chosen = best_look(looks, limit)
        epochs = [e | {"trial": float(i)} for i, each in enumerate(found) for e in each.epochs]
        notes = {
            "penalty_lambdas": " ".join(f"{each.notes['penalty_lambda']:.6g}" for each in found),
            "penalty_cost_ratios": " ".join(f"{look.cost:.6g}" for look in looks),
            "penalty_trial_taken": chosen + 1,
            "penalty_hit": hits(looks[chosen], limit, self.settings.tolerance),
        }
        return replace(
            found[chosen],
            epochs=tuple(epochs),
            **total_time(vars(each) for each in found),
            trials=len(found),
            notes=found[chosen].notes | notes,
        )


def beside(path: Path, word: str) -> Path:
    """`search.pt` -> `search-word.pt`."""
    return path.with_name(f"{path.stem}-{word}{path.suffix}")


def copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of its own."""
    return {name: value.detach().clone() for name, value in state.items()}
