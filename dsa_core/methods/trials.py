"""Search the strength of a penalty: train from the same weights until the budget is met."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from dsa_core.allocation import Allocation
from dsa_core.methods.bracket import Trial, best_trial, hits, next_strength
from dsa_core.methods.config import SearchJob
from dsa_core.methods.penalised import Penalty
from dsa_core.methods.search import search
from dsa_core.training import Precision, TrainConfig, load_checkpoint, lr_at, save_checkpoint
from dsa_core.training.stopwatch import total_time

FORMAT = ("precision", "channels_last")  # in the notes of an allocation


@dataclass(frozen=True)
class Trials:
    """Trainings of one network from the same weights at successive strengths of a penalty."""

    method: Penalty
    job: SearchJob

    def run(self) -> Allocation:
        """Train until a trial hits the budget or there have been `max_trials`.

        The result is the costliest network within the budget, else the cheapest; its weights are in
        the model at the end. All trials run in the number format of the first. A killed run finds
        the checkpoints of its trials, skips the finished ones, and ends with the same bits.
        """
        m, start, limit = self.method, self._start(), self.job.budget.ratio
        found: list[Allocation] = []
        trials: list[Trial] = []
        kept = start
        while len(trials) < m.max_trials:
            strength = next_strength(
                trials, limit, first=m.strength, factor=m.factor, tolerance=m.tolerance
            )
            if strength is None:
                break
            self.job.model.load_state_dict(start)
            precision = Precision(*(found[0].notes[key] for key in FORMAT)) if found else None
            found.append(self._trial(len(trials), strength, precision))
            trials.append(Trial(strength, found[-1].whole_ratio(self.job.budget.resource)))
            if best_trial(trials, limit) == len(trials) - 1:
                kept = copied(self.job.model.state_dict())
            if found[-1].notes["stopped"]:
                break
        self.job.model.load_state_dict(kept)
        return self._joined(found, trials)

    def _trial(self, number: int, strength: float, precision: Precision | None) -> Allocation:
        """One training, with its own checkpoint."""
        data, config = self.job.data, self.job.config
        steps, path = len(data.weights), data.checkpoint
        length = self.method.path_length or path_length(config.train, steps, config.warmup_epochs)
        own = replace(data, checkpoint=path and beside(path, f"trial{number}"))
        changes = {"strength": strength, "path_length": length}
        method = self.method.model_copy(update=changes)
        return search(method, replace(self.job, data=own), precision)

    def _start(self) -> dict[str, Tensor]:
        """The weights that every trial starts from; after a kill, those of the first call."""
        path, state = self.job.data.checkpoint, self.job.model.state_dict()
        if path is None:
            return copied(state)
        file, mine = beside(path, "start"), self.job.fingerprint(self.method.label)
        if not file.exists():
            save_checkpoint(file, {"fingerprint": mine, "model": state})
        saved = load_checkpoint(file, mine)["model"]
        return {k: v.to(state[k].device) for k, v in saved.items()}

    def _joined(self, found: list[Allocation], trials: list[Trial]) -> Allocation:
        """The chosen trial's allocation, with the cost of all of them.

        An epoch's `trial` counts from 0, `penalty_trial_taken` from 1.
        """
        limit = self.job.budget.ratio
        chosen = best_trial(trials, limit)
        epochs = [e | {"trial": float(i)} for i, each in enumerate(found) for e in each.epochs]
        lams = [each.notes.get("penalty_lambda", float("nan")) for each in found]
        notes = {
            "penalty_lambdas": " ".join(f"{lam:.6g}" for lam in lams),
            "penalty_cost_ratios": " ".join(f"{trial.cost:.6g}" for trial in trials),
            "penalty_trial_taken": chosen + 1,
            "penalty_hit": hits(trials[chosen], limit, self.method.tolerance),
        }
        return replace(
            found[chosen],
            epochs=tuple(epochs),
            **total_time(vars(each) for each in found),
            trials=len(found),
            notes=found[chosen].notes | notes,
        )


def path_length(train: TrainConfig, steps_per_epoch: int, warmup_epochs: int = 0) -> float:
    """How far SGD moves a weight with a constant gradient of 1, after the warm-up.

    With momentum mu that is  sum_t lr_t / (1 - mu).
    """
    total = train.epochs * steps_per_epoch
    steps = range(warmup_epochs * steps_per_epoch, total)
    rates = (lr_at(t, total, steps_per_epoch, train) for t in steps)
    return sum(rates) / (1 - train.momentum)


def beside(path: Path, word: str) -> Path:
    """`search.pt` -> `search-word.pt`."""
    return path.with_name(f"{path.stem}-{word}{path.suffix}")


def copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of a state dict."""
    return copy.deepcopy(dict(state))
