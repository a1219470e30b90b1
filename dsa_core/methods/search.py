"""Train a network under masks while its keep ratios move to a budget: the loop allocators share."""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dsa_core.allocation import Allocation, Update
from dsa_core.errors import TrainingError
from dsa_core.methods.config import OnStep
from dsa_core.methods.problem import Problem
from dsa_core.methods.scheme import Scheme
from dsa_core.training import (
    Meter,
    Precision,
    autocast,
    choose_precision,
    keep_freed_memory,
    load_checkpoint,
    lr_at,
    make_sgd,
    place,
    place_model,
    save_checkpoint,
    set_lr,
)
from dsa_core.training.processes import (
    agreed,
    average_buffers,
    average_gradients,
    mean_and_sum,
    team,
)
from dsa_core.training.seeds import step_seed
from dsa_core.training.stopwatch import Stopwatch, total_time


def search(
    problem: Problem,
    scheme: Scheme,
    on_step: OnStep | None = None,
    *,
    precision: Precision | None = None,
) -> Allocation:
    """Train the weights while a scheme moves the keep ratios down to the budget.

    All randomness is a function of (seed, epoch, step), so that a run that was
    killed goes on from its checkpoint, written after every epoch, to the same bits.

    Args:
        problem: see `Problem`.
        scheme: what is the method's own.
        on_step: called with every update of the keep ratios; True ends the search at once.
        precision: number format and memory order; None = the fastest that the configuration allows.
            A checkpoint has its own.

    Raises:
        BudgetError: the budget is below the cost of the floors.
        TrainingError: the loss is not finite, or the checkpoint belongs to another run.
        KeyboardInterrupt: as it came, with a word on how to go on.
    """
    run = SearchRun(problem, scheme)
    run.prepare(precision)
    stopped = False
    try:
        while run.epoch < problem.config.train.epochs and not stopped:
            stopped = run.train_epoch(on_step)
            if not stopped:
                run.save()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(run.interrupted()) from None
    finally:
        run.meter.close()
    return run.allocation(stopped)


class SearchRun:
    """The state of one search: epochs done, updates made, and the weights' optimiser."""

    def __init__(self, problem: Problem, scheme: Scheme) -> None:
        self.problem, self.config, self.data = problem, problem.config, problem.data
        self.model, self.scheme, self.device = problem.model, scheme, problem.device
        scheme.check = self._check_finite
        self.sgd = make_sgd(self.model, self.config.train)
        for group in scheme.parameters():
            self.sgd.add_param_group(group)
        self.per_epoch, self.warmup = problem.per_epoch, problem.warmup
        self.total = self.config.train.epochs * self.per_epoch
        self.epoch = 0
        self.updates: list[Update] = []
        self.epochs: list[dict[str, float]] = []
        show = self.data.progress and team().leads
        self.meter = Meter(self.total, 0, self.data.task.score_name, show=show)

    def prepare(self, precision: Precision | None = None) -> None:
        """Go on from the checkpoint, or choose a precision if none is given and write the first."""
        keep_freed_memory(self.device)
        path = self.data.checkpoint
        if path is not None and path.exists():
            self._restore(load_checkpoint(path, self.problem.fingerprint()))
            return
        self.precision = precision or agreed(self._choose_precision())
        place_model(self.model, self.precision)
        self.save()

    def train_epoch(self, on_step: OnStep | None) -> bool:
        """Train one epoch; return whether `on_step` ended it."""
        watch, first = Stopwatch(), self.epoch * self.per_epoch
        self.model.train()
        self.meter.start_epoch(self.epoch, check_every=1 if self.device.type == "cpu" else 20)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):  # of dropout and the like
            torch.manual_seed(step_seed(self.problem.seed, "search epoch", self.epoch))
            stopped = self._train_steps(first, on_step)
        self._check(self.meter.flush())
        if self.meter.n:
            record = {"epoch": self.epoch, **self.meter.means()}
            record["masked"] = float(first >= self.warmup)
            self.epochs.append({**record, **watch.read()})
        self.epoch += not stopped
        return stopped

    def _train_steps(self, first: int, on_step: OnStep | None) -> bool:
        """Take the steps of the epoch that begins at step `first`."""
        ratio_batches = self.data.ratios.forever(self.scheme.updates_before(first))
        for step, (x, y) in enumerate(self.data.weights.mine(self.epoch), start=first):
            if self.scheme.due(step):
                self.updates.append(self.scheme.update(step, ratio_batches, self.precision))
                if on_step is not None and on_step(self.updates[-1]):
                    return True
            loss, score = self.train_step(step, x.to(self.device), y.to(self.device))
            self._check(self.meter.add(loss, score, len(x) * team().size))
        return False

    def allocation(self, stopped: bool) -> Allocation:
        """Round the keep ratios to whole channels."""
        return Allocation(
            method=self.problem.method,
            graph=self.problem.graph,
            budget=self.problem.budget,
            keep_ratios=self.scheme.keep_ratios,
            importance=self.scheme.importance().cpu(),
            counts=self.scheme.counts(),
            updates=tuple(self.updates),
            epochs=tuple(self.epochs),
            **total_time(self.epochs),
            device=str(self.device),
            notes={
                "precision": self.precision.name,
                "channels_last": self.precision.channels_last,
                "stopped": stopped,
                **self.scheme.notes(),
            },
        )

    def save(self) -> None:
        """Write everything the next epoch depends on, if it is sound."""
        average_buffers(self.model)
        for name, value in self.model.state_dict().items():
            self._check_finite(name, value)
        if self.data.checkpoint is None:
            return
        state = {
            "fingerprint": self.problem.fingerprint(),
            "model": self.model.state_dict(),
            "sgd": self.sgd.state_dict(),
            "scheme": self.scheme.state_dict(),
            "updates": [asdict(u) for u in self.updates],
            "epochs": self.epochs,
            "epoch": self.epoch,
            "precision": asdict(self.precision),
        }
        save_checkpoint(self.data.checkpoint, state)

    def interrupted(self) -> str:
        """Say how to go on after Ctrl-C."""
        path, done = self.data.checkpoint, f"{self.epoch} of {self.config.train.epochs} epochs"
        if path is None:
            return f"search interrupted after {done}; without a checkpoint the next one starts anew"
        return f"search interrupted; {done} are saved: the same call goes on from {path}"

    def _restore(self, state: dict[str, Any]) -> None:
        self.precision = Precision(**state["precision"])
        place_model(self.model, self.precision)
        self.model.load_state_dict(state["model"])
        self.sgd.load_state_dict(state["sgd"])
        self.scheme.load_state_dict(state["scheme"])
        self.updates = [
            Update(**{**u, "keep_ratios": tuple(u["keep_ratios"])}) for u in state["updates"]
        ]
        self.epochs = list(state["epochs"])
        self.epoch = int(state["epoch"])
        self.meter.bar.update(self.epoch * self.per_epoch)

    def _choose_precision(self) -> Precision:
        x, y = next(self.data.weights.epoch(0))
        y = y.to(self.device)
        self.model.train()
        return choose_precision(
            self.model,
            x.to(self.device),
            loss=lambda outputs: self.data.task.loss(outputs, y),
            precision=self.config.train.precision,
            channels_last=self.config.train.channels_last,
        )

    def train_step(self, step: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """One step of SGD with the scheme's weights and penalty (plain during the warm-up)."""
        config = self.config.train
        set_lr(self.sgd, lr_at(step, self.total, self.per_epoch, config))
        parameters = dict(self.model.named_parameters())
        searching = step >= self.warmup
        weights = self.scheme.weights(step, parameters) if searching else {}
        with autocast(self.precision, self.device):
            outputs = functional_call(self.model, weights, (place(x, self.precision),))
            loss = self.data.task.training_loss(config.label_smoothing)(outputs, y)
        penalty = self.scheme.penalty(step, parameters) if searching else None
        self.sgd.zero_grad(set_to_none=True)
        (loss if penalty is None else loss + penalty).backward()
        average_gradients(p for group in self.sgd.param_groups for p in group["params"])
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.sgd.step()
        with torch.no_grad():
            return mean_and_sum(loss.detach(), self.data.task.score(outputs, y))

    def _check(self, bad: int | None) -> None:
        if bad is not None:
            self._check_finite(f"the loss of step {bad}", torch.tensor(torch.nan))

    def _check_finite(self, name: str, value: Tensor) -> None:
        if not bool(value.isfinite().all()):
            raise TrainingError(
                f"{name} is not finite in epoch {self.epoch} of the search ({self.per_epoch} steps "
                f"each). The last good checkpoint: {self.data.checkpoint or 'no path was given'}. "
                "Try a smaller lr, a clip_norm, or precision='fp32'"
            )
