"""The one training loop, plain and resumable; a search is this loop with a Pruner attached."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from dsa_core.training.batches import Feed
from dsa_core.training.config import TrainConfig
from dsa_core.training.meter import Meter
from dsa_core.training.objective import Objective, TaskObjective
from dsa_core.training.optimizer import Factory
from dsa_core.training.precision import Precision
from dsa_core.training.processes import process_group, synced_batchnorm
from dsa_core.training.stopwatch import total_time
from dsa_core.training.task import Task
from dsa_core.training.trainer import EpochRecord, Trainer

if TYPE_CHECKING:
    from dsa_core.pruner import Pruner


@dataclass(frozen=True)
class TrainResult:
    """The result of a training.

    Attributes:
        history: a dict per epoch with epoch (from 0), train_loss, train_score where the objective
            has one (averages during the epoch, in training mode), seconds, processor_seconds, lr
            (of the last step), with a pruner masked (1.0 or 0.0). The last may be of an unfinished
            epoch, if stopped.
        seconds, processor_seconds: sum over the epochs, those before a resume included; see
            `Stopwatch`.
        precision: "fp32" or "bf16".
        channels_last: memory order used.
        milliseconds: measured times of a pass, see `Precision`.
        stopped: whether `stop` ended it early.
    """

    history: list[EpochRecord]
    seconds: float
    processor_seconds: float
    precision: str
    channels_last: bool
    milliseconds: dict[str, float] = field(default_factory=dict)
    stopped: bool = False


def train(
    model: nn.Module,
    batches: Feed,
    task: Task | Objective,
    config: TrainConfig,
    *,
    seed: int,
    checkpoint: Path | None = None,
    resume: bool = True,
    progress: bool = True,
    phase: str = "",
    stop: Callable[[], bool] | None = None,
    precision: Precision | None = None,
    pruner: "Pruner | None" = None,
    held_out: Feed | None = None,
    optimizer: Factory | None = None,
    fingerprint: Mapping[str, str] | None = None,
) -> TrainResult:
    """Train a model in place; with a pruner attached this is a search.

    Order of data, augmentation and dropout are functions of (seed, epoch), so that a run that was
    killed and resumed from its checkpoint ends with the same bits as one that was not, on the same
    machine with the same number of threads. The checkpoint is written before the first epoch and
    after each. It knows the settings, the data and the shapes of the model, but not its starting
    weights: give each run its own path.

    Args:
        model: on its device; batches are moved there.
        batches: training batches.
        task: loss and score of pairs (x, y), or an objective that reads other batches.
        config: the settings.
        seed: of dropout and the like; batches have their own.
        checkpoint: file to write, and to resume from where it exists.
        resume: False = start over, and overwrite.
        progress: show a bar.
        phase: label of this training in the bar.
        stop: called before each step; True ends the training at once, without an error. The steps
            of the unfinished epoch stay in the model, but not in the checkpoint.
        precision: number format and memory order; None: from the configuration. A checkpoint has
            its own.
        pruner: searches while the model trains; its state is part of the checkpoint. It is detached
            at the end, also after an error.
        held_out: batches for a pruner that needs them (`Pruner.held_out_step`).
        optimizer: makes an optimizer from the parameters, whose learning rate replaces the
            configuration's as the peak; None for the configured one.
        fingerprint: what else the checkpoint must match.

    Returns:
        History and how it ran.

    Raises:
        TrainingError: the loss is not finite, or the checkpoint is damaged or belongs to a
            different run.
        KeyboardInterrupt: raised again, with a message that says how to resume.
    """
    objective = TaskObjective(task, config.label_smoothing) if isinstance(task, Task) else task
    run = Trainer(
        model,
        batches,
        objective,
        config,
        seed=seed,
        path=checkpoint,
        pruner=pruner,
        held_out=held_out,
        make=optimizer,
        fingerprint=fingerprint or {},
    )
    stopped = False
    try:
        run.prepare(resume, precision)
        show = progress and process_group().is_main
        done = len(run.history) * len(batches)
        meter = Meter(run.total, done, objective.score_name, show=show, phase=phase)
        with synced_batchnorm(model), closing(meter):
            for epoch in range(len(run.history), config.epochs):
                stopped = run.epoch(epoch, meter, stop)
                if stopped:
                    break
                run.save()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(run.interrupted()) from None
    finally:
        run.detach()
    if run.average is not None:
        run.average.put_in()
    return TrainResult(
        history=run.history,
        **total_time(run.history),
        precision=run.precision.name,
        channels_last=run.precision.channels_last,
        milliseconds=run.precision.milliseconds,
        stopped=stopped,
    )
