"""The budget a network must meet: how much of the dense network's cost, in which resources."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real

import torch
from torch import Tensor

from dsa_core.budget.form import Cost, Resource
from dsa_core.channels import ChannelGraph
from dsa_core.errors import BudgetError

NS_PER_MS = 1e6  # in a millisecond
LIMITS = ("macs", "params", "latency", "latency_ms")  # fields that limit something
MEASURED = ("latency", "latency_ms", "calibrated")  # fields of a budget that only latency needs
ROUNDING = 1e-15  # relative error of ratio times dense cost, which is no reason to refuse a channel


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the pruned network may cost, as ratios in (0, 1] of the dense cost; all of them hold.

    Attributes:
        macs, params, latency, latency_ms: at least one is given, of the last two at most one. All
            are ratios but `latency_ms`, which is the time of a batch in milliseconds.
        floors: group name -> smallest keep ratio in [0, 1]; the name "*" stands for all others.
        divisor: kept channels are multiples of it (or the whole group); at least one channel stays.
        calibrated: for latency, its cost on the machine at hand: `calibrate(...).cost()`.

    Raises:
        BudgetError: a value is of the wrong type or out of range; the message says what to write.
    """

    macs: float | None = None
    params: float | None = None
    floors: Mapping[str, float] = field(default_factory=dict)
    divisor: int = 1
    latency: float | None = None
    latency_ms: float | None = None
    calibrated: Cost | None = None

    def __new__(cls, *unnamed: object, **named: object) -> "Budget":
        """Refuse a value without the name of its resource."""
        if unnamed:
            raise BudgetError(f"name the resource: Budget(macs=0.5), got Budget({unnamed[0]!r})")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        given = [name for name in LIMITS if getattr(self, name) is not None]
        for name in given:
            check_number(name, getattr(self, name))
        if not given or given[-2:] == ["latency", "latency_ms"]:
            raise BudgetError(
                "a budget names at least one resource, such as Budget(macs=0.5) or "
                "Budget(macs=0.5, params=0.3), and latency as a ratio or in ms; got "
                f"{' and '.join(given) or 'none'}"
            )
        timed = self.calibrated is not None and self.calibrated.resource == "latency"
        if "latency" in given[-1] and not timed:
            raise BudgetError(
                "a budget of latency needs what a channel costs on this machine: "
                "Budget(latency=0.6, calibrated=calibrate(model, graph, x).cost())"
            )
        for resource, ratio in self.ratios.items():
            if not 0 < ratio <= 1:
                in_ms = resource == "latency" and self.latency_ms is not None
                limit = f" ({self.latency_ms} ms / dense)" if in_ms else ""
                raise BudgetError(f"{resource} must be a ratio in (0, 1], got {ratio:g}{limit}")
        self._check_shape()

    def _check_shape(self) -> None:
        """Refuse a divisor or floors that are none."""
        if not isinstance(self.divisor, Integral) or self.divisor is True or self.divisor < 1:
            raise BudgetError(
                f"divisor must be at least 1, a whole number such as 8, got {self.divisor!r}"
            )
        if not isinstance(self.floors, Mapping):
            raise BudgetError(
                "floors must say which group keeps how much: {'conv1': 0.5}, or {'*': 0.1} for all "
                f"groups; got {self.floors!r}"
            )
        for name, floor in self.floors.items():
            check_number(f"the floor of {name!r}", floor)
            if not 0 <= floor <= 1:
                raise BudgetError(f"the floor of {name!r} must be in [0, 1], got {floor}")

    def __repr__(self) -> str:
        """What was asked; a calibration by its checksum. Checkpoints are known by this text."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.calibrated is not None:
            values["calibrated"] = self.calibrated.checksum
        shown = (f"{k}={v!r}" for k, v in values.items() if k not in MEASURED or v is not None)
        return f"Budget({', '.join(shown)})"

    @property
    def ratios(self) -> dict[Resource, float]:
        """Every limit as a ratio of the dense cost, in the order macs, params, latency."""
        latency = self.latency
        if self.latency_ms is not None:
            assert self.calibrated is not None
            latency = self.latency_ms * NS_PER_MS / self.calibrated.dense
        limits: dict[Resource, float | None] = {
            "macs": self.macs,
            "params": self.params,
            "latency": latency,
        }
        return {resource: ratio for resource, ratio in limits.items() if ratio is not None}

    @property
    def resource(self) -> Resource:
        """The resource that is limited, of several the first."""
        return next(iter(self.ratios))

    @property
    def ratio(self) -> float:
        """The limit of that resource as a ratio of the dense cost."""
        return self.ratios[self.resource]

    def costs(self, graph: ChannelGraph) -> tuple[Cost, ...]:
        """The cost of a network in every resource that is limited, in the order of `ratios`."""
        return tuple(self.cost(graph, resource) for resource in self.ratios)

    def cost(self, graph: ChannelGraph, resource: Resource | None = None) -> Cost:
        """The cost of a network in the (first) resource that is limited, or in another one.

        Raises:
            BudgetError: latency is asked for and was not calibrated, or for another network.
        """
        if (resource or self.resource) != "latency" or self.calibrated is None:
            return Cost.of(graph, resource or self.resource)
        names = tuple(g.name for g in graph.prunable)
        if (names, graph.sizes.tolist()) != (self.calibrated.names, self.calibrated.sizes.tolist()):
            raise BudgetError(
                f"the calibration is of another network: it has {len(self.calibrated.names)} "
                f"groups of {int(self.calibrated.sizes.sum())} channels, this one {len(names)} of "
                f"{int(graph.sizes.sum())}, or their names differ. Calibrate this one"
            )
        return self.calibrated

    def least_counts(self, cost: Cost) -> Tensor:
        """The fewest channels each group may keep, int64, shape (K,)."""
        unknown = set(self.floors) - set(cost.names) - {"*"}
        if unknown:
            raise BudgetError(
                f"no prunable group is named {sorted(unknown)}; there are {list(cost.names)}"
            )
        floors = torch.tensor(
            [self.floors.get(n, self.floors.get("*", 0.0)) for n in cost.names], dtype=torch.float64
        )
        counts = (floors * cost.sizes - 1e-9).ceil().long().clamp_min(1)
        return self.step_up(counts, cost.sizes)

    def step_up(self, counts: Tensor, sizes: Tensor) -> Tensor:
        """The nearest allowed count that is not smaller."""
        return torch.minimum(-(-counts // self.divisor) * self.divisor, sizes)

    def step_down(self, counts: Tensor, sizes: Tensor) -> Tensor:
        """The nearest allowed count that is not larger; may be 0."""
        return torch.where(counts >= sizes, sizes, counts // self.divisor * self.divisor)

    def limit(self, cost: Cost) -> int:
        """The most that may be spent of a cost, in its unit."""
        return math.floor(self.ratios[cost.resource] * cost.dense * (1 + ROUNDING) + 1e-6)

    def limited(self, costs: Cost | Sequence[Cost]) -> tuple[Cost, ...]:
        """The costs in the order of `ratios`; BudgetError if one is missing or too many."""
        of = {c.resource: c for c in ((costs,) if isinstance(costs, Cost) else costs)}
        if of.keys() != self.ratios.keys():
            raise BudgetError(
                f"costs: the budget limits {' and '.join(self.ratios)}, got the cost of "
                f"{' and '.join(of) or 'nothing'}; take budget.costs(graph)"
            )
        return tuple(of[resource] for resource in self.ratios)

    def check(self, costs: Cost | Sequence[Cost]) -> None:
        """Refuse a budget that no allowed choice of channels can meet.

        Raises:
            BudgetError: names what prevents it, a floor or the divisor, and the lowest ratio that
                can be reached; or a cost is missing.
        """
        costs = self.limited(costs)
        for cost in costs:
            if not self._met(cost):
                self._refuse(costs, cost)

    def in_blocks(self, graph: ChannelGraph, blocks: Sequence[int]) -> "Budget":
        """The same budget in steps of the first of some numbers of channels that can meet it.

        A divisor that is given stays, and so does everything where none can.
        """
        wider = [replace(self, divisor=block) for block in blocks if self.divisor == 1]
        return next((b for b in wider if all(map(b._met, b.costs(graph)))), self)

    def _met(self, cost: Cost) -> bool:
        """Whether the fewest channels meet the limit of a cost."""
        return cost.at(self.least_counts(cost)) <= self.limit(cost)

    def _refuse(self, costs: Sequence[Cost], cost: Cost) -> None:
        """Say why a cost is too high even with the fewest channels, and what to do."""
        least = self.least_counts(cost)
        lowest = cost.at(least) / cost.dense
        advice = f"Ask for {math.ceil(lowest * 1e4) / 1e4:.4f} or more, or"
        smaller = range(min(self.divisor - 1, int(cost.sizes.max())), 0, -1)
        works = (d for d in smaller if all(map(replace(self, divisor=d)._met, costs)))
        if (divisor := next(works, None)) is None:
            named = zip(cost.names, least.tolist(), strict=True)
            raised = [name for name, count in named if count > self.divisor]
            why = (
                f"the floors (divisor {self.divisor}, at least one channel a group, more for "
                f"{raised[:6] or 'none'}) already cost {lowest:.6f} of the dense network"
            )
            advice = f"{advice} lower the floors"
        else:
            why = (
                f"in steps of divisor={self.divisor} channels no group keeps less than one step, "
                f"or all it has, and that costs {lowest:.6f} of the dense network"
            )
            advice = f"{advice} take divisor={divisor}, the largest below that can"
        raise BudgetError(
            f"{cost.resource}={self.ratios[cost.resource]:g} cannot be reached: {why}. {advice}"
        )


def check_number(name: str, value: object) -> None:
    """Refuse what is no number: a text, a bool."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise BudgetError(f"{name}: wanted a number such as 0.5, got {value!r}")


def as_budget(value: object) -> Budget:
    """Return a budget as it is, and refuse anything else.

    Raises:
        BudgetError: it is none; a plain number does not say of what.
    """
    if isinstance(value, Budget):
        return value
    number = f"{value}" if isinstance(value, Real) and not isinstance(value, bool) else "0.5"
    raise BudgetError(
        f"budget: wanted a Budget that names the resource, such as Budget(macs={number}), got "
        f"{value!r}"
    )
