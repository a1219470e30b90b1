"""What a mask costs: a step of the search against a plain one, both in the search's own loop."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dsa_core.budget import Budget, make_optimizer
from dsa_core.channels import trace
from dsa_core.lab import data, models
from dsa_core.lab.bench.figures import Figure, figure
from dsa_core.lab.bench.pictures import normalised, pictures
from dsa_core.lab.latency import in_turn
from dsa_core.methods import SearchConfig, SearchData
from dsa_core.methods.problem import Problem
from dsa_core.methods.ratios import KeepRatioScheme
from dsa_core.methods.search import SearchRun
from dsa_core.training import TrainConfig

PAPER_EVERY = 20  # weight steps for each update of the keep ratios, in the paper
DEFAULT_EVERY = SearchConfig.model_fields["ratio_every"].default


class Bench:
    """A search of DSA, set up to repeat its steps on one batch.

    Its warm-up trains plainly: a step before its end is the plain step, one after it the masked
    one, by the same code. Keep ratios have come down to half of the MACs.
    """

    def __init__(self, name: str, *, batch: int = 128, precision: str = "auto") -> None:
        """Set up, and let the search choose its precision as it does.

        Args:
            name: a network for pictures of 3x32x32.
            batch: examples of a step.
            precision: see `TrainConfig`.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = models.build(name).train()
        source = normalised(pictures(2 * batch), batch_size=batch)
        train = TrainConfig(epochs=4, lr=0.01, precision=precision)  # type: ignore[arg-type]
        config = SearchConfig(train=train, warmup_epochs=1)
        found = SearchData(source, source, data.classification(), progress=False)
        graph = trace(model, models.example_input(name))
        problem = Problem("dsa", model, graph, Budget(macs=0.5), found, config, 0)
        optimizer = make_optimizer(config.optimizer, problem.form, floors=problem.floors)
        self.scheme = KeepRatioScheme(problem, optimizer)
        self.run = SearchRun(problem, self.scheme)
        self.run.prepare()
        self.device = problem.device
        self.late = self.run.total - 1  # the budget has come down by then
        x, y = next(source.epoch(0))
        self.x, self.y = x.to(self.device), y.to(self.device)
        self.ratio_batches = source.forever()
        self.small_batches = normalised(pictures(batch), batch_size=max(1, batch // 2)).forever()
        self.update()

    def plain(self) -> None:
        """A step of the warm-up."""
        self.run.train_step(0, self.x, self.y)

    def masked(self) -> None:
        """A step of the search."""
        self.run.train_step(self.late, self.x, self.y)

    def update(self) -> None:
        """An update of the keep ratios."""
        self.scheme.update(self.late, self.ratio_batches, self.run.precision)

    def small_update(self) -> None:
        """The same on half a batch, as `ratio_batch_size` allows."""
        self.scheme.update(self.late, self.small_batches, self.run.precision)

    def counts(self) -> Tensor:
        """The rounding at the end of a search."""
        return self.scheme.counts()


@dataclass(frozen=True)
class StepTimes:
    """Milliseconds of every round, in turn.

    Attributes:
        plain, masked: of a weight step.
        update: of the keep ratios, with its batch, forward and backward pass.
        small_update: of the keep ratios, on half a batch.
        precision: in which they ran.
    """

    plain: list[float]
    masked: list[float]
    update: list[float]
    small_update: list[float]
    precision: str

    def ratio(self, every: int | None, *, small: bool = False) -> Figure:
        """(masked + update / every) / plain, round by round; None leaves the update out."""
        share = 0.0 if every is None else 1 / every
        rounds = zip(
            self.plain, self.masked, self.small_update if small else self.update, strict=True
        )
        word = " on half a batch" if small else ""
        note = "without the update" if every is None else f"an update{word} every {every} steps"
        values = [(m + share * u) / p for p, m, u in rounds]
        return figure(values, "times", f"{note}, {self.precision}")


def step_times(name: str, *, rounds: int, batch: int = 128, precision: str = "auto") -> StepTimes:
    """Time plain steps, masked steps and both updates in turn; three rounds warm up."""
    bench = Bench(name, batch=batch, precision=precision)
    turns = [bench.plain, bench.masked, bench.update, bench.small_update]
    plain, masked, update, small = in_turn(turns, bench.device, repeats=rounds)
    chosen = bench.run.precision
    order = " channels_last" if chosen.channels_last else ""
    return StepTimes(plain, masked, update, small, f"{chosen.name}{order}")
