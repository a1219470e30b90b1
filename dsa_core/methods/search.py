"""A search by the lab: the training loop with a Pruner attached."""

import warnings
from collections.abc import Callable
from dataclasses import replace

from dsa_core.allocation import Allocation
from dsa_core.methods.config import OnStep, SearchJob
from dsa_core.pruner import Pruner
from dsa_core.scheme import Method
from dsa_core.training import Precision, train


def search(method: Method, job: SearchJob, precision: Precision | None = None) -> Allocation:
    """Train the weights in place while a method moves the keep ratios down to the budget.

    All randomness is a function of (seed, epoch, step), so a killed run that resumes from its
    checkpoint, written after every epoch, ends with the same bits.

    Args:
        method: settings of the method.
        precision: number format and memory order; None: from the configuration.

    Raises:
        BudgetError: the budget is below the cost of the floors.
        TrainingError: the loss is not finite, or the checkpoint belongs to another run.
        KeyboardInterrupt: raised again, with a message that says how to resume.
    """
    model, data, config = job.model, job.data, job.config
    per_epoch = len(data.weights)
    pruner = Pruner(
        model,
        job.graph,
        job.budget,
        steps=config.train.epochs * per_epoch,
        method=method,
        seed=job.seed,
        warmup_steps=config.warmup_epochs * per_epoch,
    )
    watch = None if job.on_step is None else watcher(pruner, job.on_step)
    result = train(
        model,
        data.weights,
        data.task,
        config.train,
        seed=job.seed,
        checkpoint=data.checkpoint,
        progress=data.progress,
        stop=watch,
        precision=precision,
        pruner=pruner,
        held_out=data.ratios if pruner.scheme.held_out else None,
    )
    if watch is not None and not result.stopped:
        watch()  # the last update comes after the last step
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # stopping early is recorded in the notes
        found = pruner.conclude()
    return replace(
        found,
        epochs=tuple(result.history),
        seconds=result.seconds,
        processor_seconds=result.processor_seconds,
        notes={
            "precision": result.precision,
            "channels_last": result.channels_last,
            "stopped": result.stopped,
            **found.notes,
        },
    )


def watcher(pruner: Pruner, on_step: OnStep) -> Callable[[], bool]:
    """A function that passes new updates to `on_step` and returns whether to stop."""
    shown = len(pruner.history)

    def stop() -> bool:
        nonlocal shown
        new = pruner.history[max(shown, pruner.restored) :]
        shown = len(pruner.history)
        return any([bool(on_step(update)) for update in new])

    return stop
