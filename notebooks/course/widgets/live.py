"""A whole pruning in seconds, which says how far it is and stops when asked: what Run starts."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from course.widgets.explore import State, Used
from dsa_core.budget import Budget, Cost
from dsa_core.channels import ChannelGraph
from dsa_core.lab import models
from dsa_core.lab.data import (
    AnyDataset,
    BatchSource,
    classification,
    load,
    split,
    step_seed,
)
from dsa_core.methods import ALLOCATORS, Allocation, SearchConfig, SearchData
from dsa_core.surgery import prune
from dsa_core.tracing import trace
from dsa_core.training import TrainConfig, evaluate, recalibrate_batchnorm, train
from dsa_core.training.config import ScheduleName

MODEL, DATASET = "resnet8", "digits"
BATCH, TEST_BATCH, NORM_BATCHES = 64, 500, 10
WEIGHTS_FRACTION = 0.8  # of the training pictures; the rest trains the keep ratios
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
        names, sizes, counts: of every group.
        macs: kept and dense.
        dense, cut, tuned: accuracy on the test pictures: of the dense network, after the cut, after
            the fine-tuning.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    counts: tuple[int, ...]
    macs: Used
    dense: float
    cut: float
    tuned: float


class Stopped(Exception):  # noqa: N818 (no error: the user asked for it)
    """Ends a job between two steps."""


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

    def end(self) -> None:
        """Leave the job if the phase was stopped."""
        if self.stop():
            raise Stopped


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
    """
    shop = Shop.of(job, report, stop)
    try:
        return walk(job, shop)
    except Stopped:
        return None


@dataclass(frozen=True)
class Shop:
    """What the phases of a job share: data, network, budget, and the meter of its steps."""

    dataset: AnyDataset
    model: nn.Module
    graph: ChannelGraph
    budget: Budget
    parts: tuple[Tensor, Tensor]
    meter: Meter
    seed: int

    @staticmethod
    def of(job: LiveJob, report: Report, stop: Stop) -> "Shop":
        """Load, build and trace; refuse a budget that cannot be met."""
        dataset = load(DATASET)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(job.seed)
            model = models.build(MODEL)
        graph = trace(model, models.example_input(MODEL))
        budget = budget_of(job.state, graph)
        budget.check(Cost.of(graph, budget.resource))
        parts = split(dataset.count("train"), WEIGHTS_FRACTION, job.seed)
        whole, part = dataset.count("train") // BATCH, len(parts[0]) // BATCH
        total = whole * (job.dense_epochs + job.tune_epochs) + part * job.search_epochs
        return Shop(dataset, model, graph, budget, parts, Meter(total, report, stop), job.seed)

    def batches(self, phase: str, indices: Tensor | None = None) -> BatchSource:
        """Training batches whose order depends on seed and phase."""
        seed = step_seed(self.seed, phase)
        return self.dataset.batches(
            "train", batch_size=BATCH, indices=indices, seed=seed, drop_last=True
        )

    def train(self, model: nn.Module, phase: str, settings: TrainConfig) -> float:
        """Train in place; the score on the test pictures."""
        self.meter.begin(phase)
        batches, count = self.batches(phase), self.meter.step
        train(model, batches, TASK, settings, seed=self.seed, progress=False, stop=count)
        self.meter.end()
        return self.score(model)

    def score(self, model: nn.Module) -> float:
        """Accuracy on the test pictures."""
        return evaluate(model, self.dataset.batches("test", batch_size=TEST_BATCH), TASK).score


def budget_of(state: State, graph: ChannelGraph) -> Budget:
    """The budget of a state, without floors of groups that this network does not have."""
    own = {g.name for g in graph.prunable}
    floors = {name: value for name, value in state.floors.items() if name in own}
    return replace(state, floors=floors).budget


def walk(job: LiveJob, shop: Shop) -> LiveResult:
    """Take the phases one after the other."""
    dense = shop.train(shop.model, "training the dense network", settings(job.dense_epochs, 0.1))
    found = find(job, shop)
    pruned = prune(shop.model, shop.graph, found.keep)
    recalibrate_batchnorm(pruned, shop.batches("recalibration"), NORM_BATCHES)
    cut = shop.score(pruned)
    tuned = shop.train(pruned, "fine-tuning what is left", settings(job.tune_epochs, 0.05))
    cost = Cost.of(shop.graph, "macs")
    return LiveResult(
        names=cost.names,
        sizes=tuple(cost.sizes.tolist()),
        counts=tuple(found.counts.tolist()),
        macs=Used(cost.at(found.counts), cost.dense),
        dense=dense,
        cut=cut,
        tuned=tuned,
    )


def find(job: LiveJob, shop: Shop) -> Allocation:
    """Search by the method of the state, training the network in place."""
    shop.meter.begin(f"searching by {job.state.method}")
    weights, ratios = shop.parts
    data = SearchData(
        shop.batches("weights", weights), shop.batches("ratios", ratios), TASK, progress=False
    )
    slow = settings(job.search_epochs, 0.02, schedule="constant")
    config = SearchConfig(train=slow, ratio_every=1)
    allocation = ALLOCATORS[job.state.method](
        shop.model,
        shop.graph,
        shop.budget,
        data,
        config,
        seed=job.seed,
        on_step=lambda _: shop.meter.step(),
    )
    shop.meter.end()
    return allocation


def settings(epochs: int, lr: float, schedule: ScheduleName = "one_cycle") -> TrainConfig:
    """Plain float32: measuring which precision is faster would take longer than it saves."""
    return TrainConfig(
        epochs=epochs,
        lr=lr,
        batch_size=BATCH,
        schedule=schedule,
        precision="fp32",
        channels_last=False,
    )
