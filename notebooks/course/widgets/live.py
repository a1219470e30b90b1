"""A whole pruning in seconds, which says how far it is and stops when asked: what Run starts."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from course.widgets.explore import State
from dsa_core.allocation import Allocation
from dsa_core.errors import ConfigError
from dsa_core.lab import models
from dsa_core.lab.data import classification, load
from dsa_core.methods import METHODS
from dsa_core.pruner import Pruner
from dsa_core.tracing import trace
from dsa_core.training import TrainConfig, evaluate, recalibrate_batchnorm, train

MODEL, NETWORK = "resnet8", "resnet8 on digits"
LIVE = ("dsa", "uniform", "dcss", "dtp")  # one search each
BATCH, TEST_BATCH, NORM_BATCHES = 64, 500, 10
SETTINGS: dict[str, Any] = {"batch_size": BATCH, "precision": "fp32", "channels_last": False}
TASK = classification()

Report = Callable[["Progress"], None]
Stop = Callable[[], bool]


@dataclass(frozen=True)
class LiveJob:
    """What to do: ResNet-8 on the digits, under the budget of a state.

    Attributes:
        state: method, budget, divisor and floors; floors of groups that ResNet-8 does not have are
            left out.
        dense_epochs, search_epochs, tune_epochs: at least 1 each.
        seed: of weights, batches and masks.
    """

    state: State = field(default_factory=State)
    dense_epochs: int = 4
    search_epochs: int = 8
    tune_epochs: int = 3
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """How far a job is: the phase in words, and the part of all steps done, in [0, 1]."""

    phase: str
    done: float


@dataclass(frozen=True)
class LiveResult:
    """What a job found.

    Attributes:
        allocation: which channels stay.
        dense, cut, tuned: accuracy on the test images: of the dense network, after the cut, after
            the fine-tuning.
    """

    allocation: Allocation
    dense: float
    cut: float
    tuned: float


class Meter:
    """Counts steps, reports each percent of them, and asks whether to stop."""

    def __init__(self, total: int, report: Report, stop: Stop) -> None:
        self.total, self.report, self.stop = total, report, stop
        self.phase, self.steps, self.percent = "", 0, -1

    def begin(self, phase: str) -> None:
        """Name what comes now."""
        self.phase = phase
        self.report(Progress(phase, min(1.0, self.steps / self.total)))

    def step(self) -> bool:
        """Count one step; whether to stop before it."""
        self.steps += 1
        percent = 100 * self.steps // self.total
        if percent > self.percent:
            self.percent = percent
            self.report(Progress(self.phase, min(1.0, self.steps / self.total)))
        return self.stop()


def prune_live(job: LiveJob, *, report: Report, stop: Stop) -> LiveResult | None:
    """Train ResNet-8 on the digits, search, cut and fine-tune; seconds on a free core.

    Args:
        job: what to do.
        report: called with the progress, about a hundred times, from the thread of the caller.
        stop: asked before every step; True ends the job there.

    Returns:
        What was found; None if it was stopped.

    Raises:
        BudgetError: the floors cost more than the budget; before anything is trained.
        ConfigError: the method is not one of `LIVE`.
    """
    data, seed = load("digits"), job.seed
    batches = data.batches("train", batch_size=BATCH, seed=seed, drop_last=True)
    model, pruner = prepared(job, job.search_epochs * len(batches))
    epochs = (job.dense_epochs, job.search_epochs, job.tune_epochs)
    meter = Meter(sum(epochs) * len(batches), report, stop)

    def phase(name: str, network: nn.Module, epochs: int, lr: float, **more: Any) -> float:
        meter.begin(name)
        config = TrainConfig(epochs=epochs, lr=lr, **SETTINGS)
        train(network, batches, TASK, config, seed=seed, progress=False, stop=meter.step, **more)
        return evaluate(network, data.batches("test", batch_size=TEST_BATCH), TASK).score

    dense = phase("training the dense network", model, job.dense_epochs, 0.1)
    if not stop():
        phase(f"searching by {job.state.method}", model, job.search_epochs, 0.02, pruner=pruner)
    if stop():
        return None
    pruned = pruner.finish()
    recalibrate_batchnorm(pruned, batches, NORM_BATCHES)
    cut = evaluate(pruned, data.batches("test", batch_size=TEST_BATCH), TASK).score
    tuned = phase("fine-tuning what is left", pruned, job.tune_epochs, 0.05)
    return None if stop() else LiveResult(pruner.allocation, dense, cut, tuned)


def prepared(job: LiveJob, steps: int) -> tuple[nn.Module, Pruner]:
    """The network, drawn from the seed, and the pruner of its search."""
    if job.state.method not in LIVE:
        raise ConfigError(
            f"Run cannot search by {job.state.method}, which takes trial after trial: choose one "
            f"of {', '.join(LIVE)}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)
        model = models.build(MODEL)
    graph = trace(model, models.example_input(MODEL))
    own = {g.name for g in graph.prunable}
    floors = {name: value for name, value in job.state.floors.items() if name in own}
    budget, method = replace(job.state, floors=floors).budget, METHODS[job.state.method]
    return model, Pruner(
        model, graph, budget, steps=steps, method=method(ratio_every=1), seed=job.seed
    )
