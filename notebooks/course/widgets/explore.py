"""The budget explorer without its looks: from what the controls say to what there is to see."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from course.figures.frontier import Point, between
from course.widgets.networks import Network, passed
from dsa_core.budget import Budget, Resource, round_to_channels
from dsa_core.errors import ConfigError, nearest
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
        predicted: the place on the measured frontier, with its score; None if not measured there.
        asked_ratio, seed: of the search that the allocation comes from.
        measured: whether that search was asked for just this, so that its score is no guess.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    counts: tuple[int, ...]
    used: dict[Resource, Used]
    predicted: Point | None
    asked_ratio: float
    seed: int
    measured: bool


def look(network: Network, state: State) -> View:
    """Find what a budget leaves of a network, from shipped searches and the cost model.

    The search that was asked for the nearest budget below is read at the place where it passed
    this one. Its keep ratios, shifted on the budget, are rounded to whole channels. The score is
    read off the frontier at the MACs that are left, between the two budgets measured around it.

    Raises:
        BudgetError: the floors cost more than the budget, or no shipped search went so low.
        ConfigError: no run of this method is shipped.
    """
    record = choose(network, state)
    cost, budget = network.costs[state.resource], state.budget
    ratios = ratios_on_path(passed(record), cost, budget)
    counts = round_to_channels(ratios, cost, budget)
    used = {r: Used(c.at(counts), c.dense) for r, c in network.costs.items()}
    kept = tuple(counts.tolist())
    return View(
        names=cost.names,
        sizes=tuple(cost.sizes.tolist()),
        counts=kept,
        used=used,
        predicted=between(network.frontiers.get(state.method, ()), used["macs"].ratio),
        asked_ratio=record.asked_ratio,
        seed=record.seed,
        measured=kept == tuple(g.kept for g in record.groups),
    )


def choose(network: Network, state: State) -> Record:
    """The search with the largest budget not above the one asked for; else the lowest there is.

    Budgets in different resources do not compare: those in the asked one go first, and among the
    others the search that went furthest is taken. Of several seeds the first.
    """
    searches = searches_of(network, state.method)
    same = [s for s in searches if s.resource == state.resource]
    below = [s for s in same if s.asked_ratio <= state.ratio + 1e-9]
    if not below:
        return (same or list(searches))[0]
    ratio = below[-1].asked_ratio
    return next(s for s in below if s.asked_ratio == ratio)


def searches_of(network: Network, method: str) -> tuple[Record, ...]:
    """The shipped searches of a method."""
    if method not in network.searches:
        raise ConfigError(f"no run of method {method!r}{nearest(method, network.searches)}")
    return network.searches[method]


def lowest_ratio(network: Network, state: State) -> float:
    """The smallest budget that a shipped search of this method and resource can answer."""
    cost = network.costs[state.resource]
    record = choose(network, State(state.method, state.resource, ratio=1e-9))
    return min(float(cost.relative(ratios)) for ratios in passed(record))
