"""What a search costs: a step of it, update included, against a plain step of the same training."""

from dataclasses import dataclass

import torch

from dsa_core.budget import Budget
from dsa_core.dsa import DSA
from dsa_core.lab import data
from dsa_core.lab.bench.figures import Figure, figure, ratios
from dsa_core.lab.bench.images import made_up, normalised
from dsa_core.lab.bench.networks import fresh
from dsa_core.lab.device import device_of
from dsa_core.pruner import Pruner
from dsa_core.training import (
    BF16,
    Precision,
    TrainConfig,
    autocast,
    device_of_model,
    make_sgd,
    place,
    place_model,
)
from dsa_core.training.stopwatch import in_turn

STEPS = 1_000_000  # of a search that does not end while it is timed


class Loop:
    """A plain training loop on one batch, with a pruner attached or none.

    The budget, half of the MACs, is asked for at once, so that the keep ratios have come down
    after the first update.

    Args:
        name: a network for images of 3x32x32.
        method: None trains plainly.
        batch: examples of a step.
        precision: number format and memory order.
    """

    def __init__(self, name: str, method: DSA | None, *, batch: int, precision: Precision) -> None:
        self.model = fresh(name).to(device_of()).train()
        self.precision, self.device = precision, device_of_model(self.model)
        place_model(self.model, precision)
        self.optimizer = make_sgd(self.model, TrainConfig(epochs=1, lr=0.01))
        x, y = next(normalised(made_up(batch), batch_size=batch).epoch(0))
        self.x, self.y = place(x, precision).to(self.device), y.to(self.device)
        self.loss_of = data.classification().loss
        self.pruner = None
        if method is not None:
            budget = Budget(macs=0.5)
            pruner = Pruner(self.model, self.x[:1], budget, steps=STEPS, method=method)
            self.pruner = pruner.attach(self.optimizer)

    def loss(self) -> torch.Tensor:
        """Of the batch."""
        with autocast(self.precision, self.device):
            return self.loss_of(self.model(self.x), self.y)

    def step(self) -> None:
        """One step of SGD."""
        if self.pruner is not None and self.pruner.wants_held_out:
            self.pruner.held_out_step(self.loss)
        loss = self.loss()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def two_steps(self) -> None:
        """Two, of which one has the update, where one comes every two steps."""
        self.step()
        self.step()


def loops(name: str, *, batch: int, precision: Precision) -> dict[str, Loop]:
    """The same training plain, in a search with free updates, and with held-out updates."""
    methods = {
        "plain": None,
        "free": DSA(ratio_every=1, anneal_fraction=0.0),
        "held_out": DSA(estimator="mixed", ratio_every=2, anneal_fraction=0.0),
    }
    return {
        key: Loop(name, method, batch=batch, precision=precision) for key, method in methods.items()
    }


@dataclass(frozen=True)
class StepTimes:
    """Milliseconds of two steps, round by round, in turn.

    Attributes:
        plain: of a training.
        free: of a search whose keep ratios move in every step by the free gradient.
        held_out: of one in which they move every two steps by a held-out batch.
        precision: in which they ran.
    """

    plain: list[float]
    free: list[float]
    held_out: list[float]
    precision: str

    def ratio(self, kind: str = "free") -> Figure:
        """A step of the search, its update included, in plain steps."""
        note = f"{kind} updates, {self.precision}"
        return figure(ratios(getattr(self, kind), self.plain), "times", note)


def step_times(
    name: str,
    *,
    rounds: int,
    batch: int = 128,
    precision: Precision = BF16,
) -> StepTimes:
    """Time two steps of each loop in turn; three rounds warm up."""
    made = loops(name, batch=batch, precision=precision)
    turns = [loop.two_steps for loop in made.values()]
    plain, free, held_out = in_turn(turns, made["plain"].device, repeats=rounds)
    order = " channels_last" if precision.channels_last else ""
    return StepTimes(plain, free, held_out, f"{precision.name}{order}")
