"""Train a network under masks while its keep ratios move to a budget: the loop allocators share."""

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dsa_core.admm import Residuals, step_scale_at
from dsa_core.allocators.allocation import MET, Allocation, Update
from dsa_core.allocators.config import OnStep
from dsa_core.allocators.gradient import ratio_gradient
from dsa_core.allocators.problem import Problem
from dsa_core.cost import Cost, round_to_channels
from dsa_core.data import step_seed
from dsa_core.errors import TrainingError
from dsa_core.kernels import inexactness
from dsa_core.masks import importance, keep_probs, masked_parameters, sample_mask
from dsa_core.training import (
    Meter,
    Precision,
    autocast,
    choose_precision,
    device_of_model,
    load_checkpoint,
    lr_at,
    make_sgd,
    place,
    place_model,
    save_checkpoint,
    set_lr,
)

NO_STEP = Residuals(primal=0.0, dual=0.0, budget=0.0, price=0.0, price_spread=0.0, clipped=0)


def search(problem: Problem, on_step: OnStep | None = None) -> Allocation:
    """Train the weights under sampled masks, and move the keep ratios down to the budget.

    First order, as in DARTS: the keep ratios' gradient is that of the validation loss at the
    present weights. All randomness is a function of (seed, epoch, step), so that a run that was
    killed goes on from its checkpoint, written after every epoch, to the same bits.

    Args:
        problem: see `Problem`.
        on_step: called with every update of the keep ratios; True ends the search at once.

    Raises:
        BudgetError: the budget is below the cost of the floors.
        TrainingError: the loss is not finite, or the checkpoint belongs to another run.
        KeyboardInterrupt: as it came, with a word on how to go on.
    """
    run = SearchRun(problem)
    run.prepare()
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

    def __init__(self, problem: Problem) -> None:
        self.problem, self.config, self.data = problem, problem.config, problem.data
        self.model, self.graph, self.optimizer = problem.model, problem.graph, problem.optimizer
        self.cost = Cost.of(problem.graph, problem.budget.resource)
        problem.budget.check(self.cost)
        self.form = self.cost.relative
        self.device = device_of_model(self.model)
        self.offsets = self.graph.offsets.to(self.device)
        self.sgd = make_sgd(self.model, self.config.train)
        self.per_epoch, self.warmup = problem.per_epoch, problem.warmup
        self.total = self.config.train.epochs * self.per_epoch
        self.epoch = 0
        self.updates: list[Update] = []
        self.epochs: list[dict[str, float]] = []
        self.meter = Meter(self.total, 0, self.data.task.score_name, show=self.data.progress)

    def prepare(self) -> None:
        """Go on from the checkpoint, or choose a precision and write the first one."""
        path = self.data.checkpoint
        if path is not None and path.exists():
            self._restore(load_checkpoint(path, self.problem.fingerprint()))
            return
        self.precision = self._choose_precision()
        place_model(self.model, self.precision)
        self.save()

    def train_epoch(self, on_step: OnStep | None) -> bool:
        """Train one epoch; return whether `on_step` ended it."""
        started, first = time.perf_counter(), self.epoch * self.per_epoch
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
            self.epochs.append({**record, "seconds": time.perf_counter() - started})
        self.epoch += not stopped
        return stopped

    def _train_steps(self, first: int, on_step: OnStep | None) -> bool:
        """Take the steps of the epoch that begins at step `first`."""
        ratio_batches = self.data.ratios.forever(self.problem.updates_before(first))
        for step, (x, y) in enumerate(self.data.weights.epoch(self.epoch), start=first):
            if step >= self.warmup and (step - self.warmup) % self.config.ratio_every == 0:
                self.updates.append(self._update(step, ratio_batches))
                if on_step is not None and on_step(self.updates[-1]):
                    return True
            loss, score = self._train_step(step, x.to(self.device), y.to(self.device))
            self._check(self.meter.add(loss, score, len(x)))
        return False

    def allocation(self, stopped: bool) -> Allocation:
        """Round the keep ratios to whole channels."""
        alpha = self.optimizer.keep_ratios
        return Allocation(
            method=self.problem.method,
            graph=self.graph,
            budget=self.problem.budget,
            keep_ratios=alpha,
            importance=importance(self.model, self.graph, self.config.importance).cpu(),
            counts=round_to_channels(alpha, self.cost, self.problem.budget),
            updates=tuple(self.updates),
            epochs=tuple(self.epochs),
            seconds=sum(e["seconds"] for e in self.epochs),
            device=str(self.device),
            notes={
                "precision": self.precision.name,
                "channels_last": self.precision.channels_last,
                "stopped": stopped,
            },
        )

    def save(self) -> None:
        """Write everything the next epoch depends on, if it is sound."""
        for name, value in self.model.state_dict().items():
            self._check_finite(name, value)
        if self.data.checkpoint is None:
            return
        state = {
            "fingerprint": self.problem.fingerprint(),
            "model": self.model.state_dict(),
            "sgd": self.sgd.state_dict(),
            "ratios": self.optimizer.state_dict(),
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
        self.optimizer.load_state_dict(state["ratios"])
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

    def _update(self, step: int, batches: Iterator[tuple[Tensor, Tensor]]) -> Update:
        """Move the keep ratios once."""
        ratio, wanted = self.problem.budget.ratio, self.problem.budget_at(step)
        alpha, sharpness = self.optimizer.keep_ratios, self.problem.sharpness(step)
        b = self._importance()
        gradient, loss = torch.zeros_like(alpha), torch.tensor(torch.nan)
        residuals = NO_STEP
        if not (self.config.fix_when_met and float(self.form(alpha)) <= ratio * (1 + MET)):
            if self.optimizer.uses_gradient:
                gradient, loss = self._gradient(alpha, b, step, next(batches))
                self._check_finite(f"the validation loss before step {step}", loss)
                self._check_finite(f"the keep ratios' gradient before step {step}", gradient)
            scale = step_scale_at(*self.problem.clock(step))
            residuals = self.optimizer.step(gradient, wanted, step_scale=scale)
        alpha = self.optimizer.keep_ratios
        p = keep_probs(b, alpha, self.graph, sharpness=sharpness)
        return Update(
            step=step,
            budget=wanted,
            cost=float(self.form(alpha)),
            sharpness=sharpness,
            inexactness=float(inexactness(p, self.offsets).sum()),
            loss=float(loss),
            price=residuals.price,
            price_spread=residuals.price_spread,
            primal=residuals.primal,
            dual=residuals.dual,
            keep_ratios=tuple(alpha.tolist()),
        )

    def _gradient(
        self, alpha: Tensor, b: Tensor, step: int, batch: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        seed = step_seed(self.problem.seed, "ratio mask", step)
        return ratio_gradient(
            self.model,
            self.graph,
            alpha,
            b,
            (batch[0].to(self.device), batch[1].to(self.device)),
            task=self.data.task,
            sharpness=self.problem.sharpness(step),
            estimator=self.config.estimator,
            precision=self.precision,
            generator=torch.Generator(self.device).manual_seed(seed),
        )

    def _train_step(self, step: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """One step of SGD under a sampled mask (none during the warm-up)."""
        config = self.config.train
        set_lr(self.sgd, lr_at(step, self.total, self.per_epoch, config))
        weights: dict[str, Tensor] = {}
        if step >= self.warmup:
            parameters = dict(self.model.named_parameters())
            weights = masked_parameters(parameters, self.graph, self._mask(step))
        with autocast(self.precision, self.device):
            outputs = functional_call(self.model, weights, (place(x, self.precision),))
            loss = self.data.task.training_loss(config.label_smoothing)(outputs, y)
        self.sgd.zero_grad(set_to_none=True)
        loss.backward()
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.sgd.step()
        with torch.no_grad():
            return loss.detach(), self.data.task.score(outputs, y)

    @torch.no_grad()
    def _mask(self, step: int) -> Tensor:
        ratios, floor = self.optimizer.keep_ratios, self.config.prob_floor
        b, sharpness = self._importance(), self.problem.sharpness(step)
        p = keep_probs(b, ratios, self.graph, sharpness=sharpness, floor=floor)
        seed = step_seed(self.problem.seed, "mask", step)
        return sample_mask(p, torch.Generator(self.device).manual_seed(seed))

    def _importance(self) -> Tensor:
        b = importance(self.model, self.graph, self.config.importance)
        self._check_finite("the importance of a channel", b)
        return b

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
