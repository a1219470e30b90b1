"""The state of a training: its steps and epochs, its checks and checkpoints."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dsa_core.errors import TrainingError
from dsa_core.training.batches import Feed, to_device
from dsa_core.training.checkpoint import (
    load_checkpoint,
    save_checkpoint,
    save_progress,
    shapes_fingerprint,
)
from dsa_core.training.config import TrainConfig
from dsa_core.training.evaluate import device_of_model, state_tensors
from dsa_core.training.memory import keep_freed_memory
from dsa_core.training.meter import Meter
from dsa_core.training.objective import Measured, Objective
from dsa_core.training.optimizer import Factory, lr_at, make_optimizer, set_lr
from dsa_core.training.precision import Precision, place_model
from dsa_core.training.processes import (
    agreed,
    average_buffers,
    distributed,
    mean_and_sum,
    process_group,
)
from dsa_core.training.seeds import isolated_rng, step_seed
from dsa_core.training.stopwatch import Stopwatch
from dsa_core.training.weight_average import WeightAverage

if TYPE_CHECKING:
    from dsa_core.pruner import Pruner

EpochRecord = dict[str, float]
REMEDY = "Try a smaller lr, a clip_norm, or precision='fp32'"


@dataclass
class Trainer:
    """The state of one training, see `loop.train`: model, optimizer, history and precision."""

    model: nn.Module
    batches: Feed
    objective: Objective
    config: TrainConfig
    seed: int
    path: Path | None
    pruner: "Pruner | None"
    held_out: Feed | None
    make: Factory | None
    fingerprint: Mapping[str, str]

    def __post_init__(self) -> None:
        self.device = device_of_model(self.model)
        self.total = self.config.epochs * len(self.batches)
        self.history: list[EpochRecord] = []
        self.saved, self.attached = 0, False
        self.optimizer = make_optimizer(self.model, self.config, self.make)
        self.others = dict(self.fingerprint)  # beyond the configuration
        if self.make is not None:
            self.others["optimizer"] = repr(self.optimizer)
        # infinite on purpose, such as an attention mask
        buffers = self.model.named_buffers()
        self.infinite = {n for n, b in buffers if not bool(b.isfinite().all())}

    def prepare(self, resume: bool, precision: Precision | None) -> None:
        """Resume from the checkpoint, or choose a precision and write the first checkpoint."""
        self.model.train()
        keep_freed_memory(self.device)
        self._check_state("before the first step")
        if resume and self.path is not None and self.path.exists():
            self._restore(load_checkpoint(self.path, self._fingerprint()))
        else:
            self.precision = precision or agreed(self._choose_precision())
            self._settle()
            self._attach()
            self.save()
        self.called = distributed(self.model)
        if self.config.compile:
            torch.compiler.reset()  # code compiled before knows nothing of a pruner's hooks
            self.called = torch.compile(self.called)  # type: ignore[assignment]

    def _attach(self) -> None:
        if self.pruner is not None:
            self.pruner.attach(self.optimizer)
            self.attached = True

    def detach(self) -> None:
        """Detach the pruner, if it was attached here."""
        if self.pruner is not None and self.attached:
            self.pruner.detach()

    def _settle(self) -> None:
        """Put the weights in their memory order; from here on they change in place."""
        place_model(self.model, self.precision)
        decay = self.config.ema
        self.average = None if decay is None else WeightAverage(self.model, decay)

    def _choose_precision(self) -> Precision:
        name, order = self.config.precision, self.config.channels_last
        if name != "auto" and order != "auto":
            return Precision(name, order)
        batch = to_device(next(iter(self.batches.mine(0))), self.device)
        return self.objective.precision(self.model, batch, self.config)

    def epoch(self, epoch: int, meter: Meter, stop: Callable[[], bool] | None) -> bool:
        """Train one epoch and append its record; return whether `stop` ended it."""
        self.model.train()
        watch, stopped = Stopwatch(), False
        masked = float(self.pruner is not None and self.pruner.searching)
        meter.start_epoch(epoch, check_every=1 if self.device.type == "cpu" else 20)
        label = "epoch" if self.pruner is None else "search epoch"
        with isolated_rng(self.device, step_seed(self.seed, label, epoch)):
            held_out = self._held_out()
            for position, batch in enumerate(self.batches.mine(epoch)):
                self._held_out_step(held_out)
                if stop is not None and stop():
                    stopped = True
                    break
                set_lr(self.optimizer, self._lr(epoch, position))
                found = self._step(to_device(batch, self.device))
                loss, score = mean_and_sum(found.shown, found.score)
                self._check(meter.add(loss, score, found.n * process_group().size), epoch)
        self._check(meter.flush(), epoch)
        self._check_state(f"after epoch {epoch}")
        if meter.n:
            lr = self.optimizer.param_groups[0]["lr"]
            record = {"epoch": epoch, **meter.means(), **watch.read(), "lr": lr}
            self.history.append(record | ({} if self.pruner is None else {"masked": masked}))
        return stopped

    def _held_out(self) -> Iterator[Any]:
        """Held-out batches, from the next one that is due."""
        if self.pruner is None or self.held_out is None:
            return iter(())
        return self.held_out.forever(self.pruner.held_out_steps)

    def _held_out_step(self, held_out: Iterator[Any]) -> None:
        """Hand the pruner a held-out batch, if it waits for one."""
        if self.pruner is None or not self.pruner.wants_held_out:
            return
        found = next(held_out, None)
        if found is None:
            raise TrainingError("held_out: this pruner asks for held-out batches; give some")
        batch = to_device(found, self.device)
        self.pruner.held_out_step(lambda: self.objective.loss(self.model, batch, self.precision))

    def _step(self, batch: Any) -> Measured:
        found = self.objective.measure(self.called, batch, self.precision)
        self.optimizer.zero_grad(set_to_none=True)
        found.loss.backward()
        self._collect()
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update()
        return found

    def _collect(self) -> None:
        """Let the pruner convert its gradients before they are clipped."""
        try:
            if self.pruner is not None:
                self.pruner.collect()
        except TrainingError as error:
            raise TrainingError(f"{error}. {self._last_good()}. {REMEDY}") from error

    def _lr(self, epoch: int, position: int) -> float:
        steps = len(self.batches)
        return lr_at(epoch * steps + position, self.total, steps, self.config)

    def _check(self, bad_step: int | None, epoch: int) -> None:
        """Stop at a loss that is not finite, before it can reach a checkpoint."""
        if bad_step is None:
            return
        raise TrainingError(
            f"the loss is not finite at epoch {epoch}, step {bad_step} of {len(self.batches)}, "
            f"lr {self._lr(epoch, bad_step):.4g}. {self._last_good()}. {REMEDY}"
        )

    def _check_state(self, when: str) -> None:
        """Check the weights too: the last step of an epoch can break them after a finite loss."""
        for name, value in state_tensors(self.model).items():
            if name not in self.infinite and not bool(torch.isfinite(value).all()):
                raise TrainingError(f"{name} is not finite {when}. {self._last_good()}. {REMEDY}")

    def _last_good(self) -> str:
        return f"The last good checkpoint is {self.path}" if self.path else "There is no checkpoint"

    def save(self) -> None:
        """Write the checkpoint, if there is a path."""
        average_buffers(self.model)
        if self.path is None:
            return
        save_checkpoint(
            self.path,
            {
                "fingerprint": self._fingerprint(),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "history": self.history,
                "pruner": {} if self.pruner is None else self.pruner.state_dict(),
                "precision": asdict(self.precision),
                "average": {} if self.average is None else self.average.state_dict(),
            },
        )
        self.saved = len(self.history)
        seconds = sum(epoch["seconds"] for epoch in self.history)
        save_progress(self.path, done=self.saved, epochs=self.config.epochs, seconds=seconds)

    def _restore(self, state: dict[str, Any]) -> None:
        self.precision = Precision(**state["precision"])
        self._settle()
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._attach()
        if self.pruner is not None:
            self.pruner.load_state_dict(state["pruner"])
        self.history = list(state["history"])
        self.saved = len(self.history)

    def _fingerprint(self) -> dict[str, str]:
        settings = {key: str(value) for key, value in self.config.model_dump().items()}
        data = {f"data {key}": value for key, value in self.batches.fingerprint().items()}
        model = {"model": shapes_fingerprint(self.model), "seed": str(self.seed)}
        found = {} if self.pruner is None else self.pruner.fingerprint()
        search = {f"search {key}": value for key, value in found.items()}
        return settings | data | model | search | self.others

    def interrupted(self) -> str:
        """The message after Ctrl-C, which says how to resume."""
        if self.path is None:
            return "training interrupted; without a checkpoint the next run starts over"
        return (
            f"training interrupted; {self.saved} of {self.config.epochs} epochs are saved: "
            f"the same call resumes from {self.path}"
        )
