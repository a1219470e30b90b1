"""The budget explorer without its looks: from what the controls say to what there is to see."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from course.figures.frontier import Point, between
from course.widgets.networks import Network, passed
from dsa_core.budget import Budget, Resource, round_to_channels
from dsa_core.errors import BudgetError, ConfigError, nearest
from dsa_core.lab.record import Record
from dsa_core.methods import ratios_on_path


@dataclass(frozen=True)
class State:
    """What the controls say.

    Attributes:
        method: an allocator with shipped runs.
        resource, ratio: the budget, a ratio in (0, 1] of the dense cost.
        divisor: kept channels are multiples of it.
        floor: every group keeps at least this ratio of its channels, in [0, 1].
        floors: the same for single groups, by name; goes before `floor`.
    """

    method: str = "dsa"
    resource: Resource = "macs"
    ratio: float = 0.5
    divisor: int = 1
    floor: float = 0.0
    floors: Mapping[str, float] = field(default_factory=dict)

    @property
    def budget(self) -> Budget:
        """As the cost model takes it."""
        macs, params = (self.ratio, None) if self.resource == "macs" else (None, self.ratio)
        floors = {"*": self.floor, **self.floors}
        return Budget(macs=macs, params=params, floors=floors, divisor=self.divisor)


@dataclass(frozen=True)
class Used:
    """How much of a resource is used, in its unit (MACs of one example, or parameters)."""

    kept: int
    dense: int

    @property
    def ratio(self) -> float:
        """Of the dense network."""
        return self.kept / self.dense


@dataclass(frozen=True)
class View:
    """What there is to see.

    Attributes:
        names, sizes, counts: of every group: name, channels, channels kept.
        used: of each resource.
        record: of the search that the allocation comes from.
        measured: whether this very allocation was trained and tested, so that the record has its
            score.
        predicted: else the place on the straight line between two measured budgets; None where
            there is none, or where a floor or a divisor moved the counts off the search's path.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    counts: tuple[int, ...]
    used: dict[Resource, Used]
    record: Record
    measured: bool
    predicted: Point | None


@dataclass(frozen=True)
class Answer:
    """What one method answers.

    Attributes:
        state: what was asked.
        view: what there is to see; None of a wish that cannot be met, and `problem` says why.
    """

    state: State
    view: View | None
    problem: str = ""


def answer(network: Network, state: State) -> Answer:
    """Look, and take a budget that cannot be met for an answer too."""
    try:
        return Answer(state, look(network, state))
    except BudgetError as error:
        return Answer(state, None, str(error))


def look(network: Network, state: State) -> View:
    """Find what a budget leaves of a network, from shipped searches and the cost model.

    A search that was asked for this very budget gives the channels that it kept. Else the one that
    was asked for the nearest budget below is read at the place where it passed this one. Its keep
    ratios, shifted on the budget, are rounded to whole channels.

    Raises:
        BudgetError: the floors cost more than the budget, or no shipped search went so low, or the
            method followed no falling budget and was not asked for this one.
        ConfigError: no run of this method is shipped.
    """
    record = choose(network, state)
    cost, budget = network.costs[state.resource], state.budget
    if was_asked(record, state):
        counts = torch.tensor([group.kept for group in record.groups])
    elif len(passed(record)) == 1:
        asked = sorted({f"{r.asked_ratio:.1%}" for r in searches_of(network, state.method)})
        raise BudgetError(
            f"{state.method} followed no falling budget: it answers only what it was asked, "
            f"{', '.join(asked)} of the MACs. Choose one of these, with no floor and in "
            "multiples of 1, or another method"
        )
    else:
        counts = round_to_channels(ratios_on_path(passed(record), cost, budget), cost, budget)
    used = {r: Used(c.at(counts), c.dense) for r, c in network.costs.items()}
    kept = tuple(counts.tolist())
    measured = kept == tuple(g.kept for g in record.groups)
    on_path = state.divisor == 1 and not state.floor and not state.floors
    curve = network.frontiers.get(state.method, ()) if on_path and not measured else ()
    return View(
        names=cost.names,
        sizes=tuple(cost.sizes.tolist()),
        counts=kept,
        used=used,
        record=record,
        measured=measured,
        predicted=between(curve, used["macs"].ratio),
    )


def choose(network: Network, state: State) -> Record:
    """The search with the largest budget not above the one asked for; else the lowest there is.

    Budgets in different resources do not compare: those in the asked one go first, and among the
    others the search that went furthest is taken. Of several the first that `was_asked` this, so of
    several seeds the first.
    """
    searches = searches_of(network, state.method)
    same = [s for s in searches if s.resource == state.resource]
    below = [s for s in same if s.asked_ratio <= state.ratio + 1e-9]
    if not below:
        return (same or list(searches))[0]
    ratio = below[-1].asked_ratio
    return max((s for s in below if s.asked_ratio == ratio), key=lambda s: was_asked(s, state))


def was_asked(record: Record, state: State) -> bool:
    """Whether a search was asked for this very budget, and for nothing else."""
    same = state.resource == record.resource and abs(state.ratio - record.asked_ratio) < 1e-9
    others = record.also_asked or record.floors or state.floor or state.floors
    return same and state.divisor == record.divisor and not others


def searches_of(network: Network, method: str) -> tuple[Record, ...]:
    """The shipped searches of a method."""
    if method not in network.searches:
        raise ConfigError(f"no run of method {method!r}{nearest(method, network.searches)}")
    return network.searches[method]
