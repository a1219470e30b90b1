"""The budget a network must meet, and whole channels within it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from dsa_core.budget.form import Cost, Resource
from dsa_core.channels import ChannelGraph
from dsa_core.errors import BudgetError

NANOSECONDS = 1e6  # in a millisecond
MEASURED = ("latency", "latency_ms", "calibrated")  # fields of a budget that only latency needs


@dataclass(frozen=True)
class Budget:
    """What the pruned network may cost, as a ratio in (0, 1] of the dense cost.

    Attributes:
        macs, params, latency, latency_ms: exactly one is given. All are ratios but `latency_ms`,
            which is the time of a batch in milliseconds.
        floors: group name -> smallest keep ratio in [0, 1]; the name "*" stands for all others.
        divisor: kept channels are multiples of it (or the whole group); at least one channel stays.
        calibrated: for latency, its cost on the machine at hand: `calibrate(...).cost()`.
    """

    macs: float | None = None
    params: float | None = None
    floors: Mapping[str, float] = field(default_factory=dict)
    divisor: int = 1
    latency: float | None = None
    latency_ms: float | None = None
    calibrated: Cost | None = None

    def __post_init__(self) -> None:
        given = [self.macs, self.params, self.latency, self.latency_ms]
        if sum(value is not None for value in given) != 1:
            raise BudgetError("a budget names one resource: Budget(macs=0.5) or Budget(params=0.3)")
        if self.resource == "latency" and (self.calibrated is None or not self.calibrated.timed):
            raise BudgetError(
                "a budget of latency needs what a channel costs on this machine: "
                "Budget(latency=0.6, calibrated=calibrate(model, graph, x).cost())"
            )
        if not 0 < self.ratio <= 1:
            limit = "" if self.latency_ms is None else f" ({self.latency_ms} ms / dense)"
            raise BudgetError(
                f"{self.resource} must be a ratio in (0, 1], got {self.ratio:g}{limit}"
            )
        if self.divisor < 1:
            raise BudgetError(f"divisor must be at least 1, got {self.divisor}")
        for name, floor in self.floors.items():
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
    def resource(self) -> Resource:
        """The resource that is limited."""
        if self.macs is not None:
            return "macs"
        return "params" if self.params is not None else "latency"

    @property
    def ratio(self) -> float:
        """The limit as a ratio of the dense cost."""
        if self.latency_ms is not None:
            assert self.calibrated is not None
            return self.latency_ms * NANOSECONDS / self.calibrated.dense
        value = {"macs": self.macs, "params": self.params, "latency": self.latency}[self.resource]
        assert value is not None
        return value

    def cost(self, graph: ChannelGraph, resource: Resource | None = None) -> Cost:
        """The cost of a network in the resource that is limited, or in another one.

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
        wanted = (floors * cost.sizes - 1e-9).ceil().long().clamp_min(1)
        return self.step_up(wanted, cost.sizes)

    def step_up(self, counts: Tensor, sizes: Tensor) -> Tensor:
        """The nearest allowed count that is not smaller."""
        return torch.minimum(-(-counts // self.divisor) * self.divisor, sizes)

    def step_down(self, counts: Tensor, sizes: Tensor) -> Tensor:
        """The nearest allowed count that is not larger; may be 0."""
        return torch.where(counts >= sizes, sizes, counts // self.divisor * self.divisor)

    def check(self, cost: Cost) -> None:
        """Refuse a budget that no allowed choice of channels can meet.

        Raises:
            BudgetError: names the floor and the lowest ratio that can be reached.
        """
        least = self.least_counts(cost)
        lowest = cost.at(least) / cost.dense
        if lowest > self.ratio:
            raised = [
                n for n, c in zip(cost.names, least.tolist(), strict=True) if c > self.divisor
            ]
            reachable = math.ceil(lowest * 1e4) / 1e4
            raise BudgetError(
                f"{self.resource}={self.ratio:g} cannot be reached: the floors (divisor "
                f"{self.divisor}, at least one channel a group, more for {raised[:6] or 'none'}) "
                f"already cost {lowest:.6f} of the dense network. Ask for {reachable:.4f} or more, "
                "or lower the floors"
            )


def round_to_channels(alpha: Tensor, cost: Cost, budget: Budget) -> Tensor:
    """Turn keep ratios into whole channels, within the budget and with no channel's worth unused.

    Every group is rounded down to an allowed count (not below its floor). If the floors push the
    cost over the budget, steps are taken back where the count lies highest above its ratio; then
    the slack is spent, step by step, on the group whose count lies lowest against its ratio, until
    no step fits any more.

    Args:
        alpha: keep ratios in [0, 1], shape (K,).

    Returns:
        Kept channels of every group, int64, shape (K,).

    Raises:
        BudgetError: the budget is below the cost of the floors.
    """
    budget.check(cost)
    limit = budget.ratio * cost.dense + 1e-6
    sizes, least = cost.sizes, budget.least_counts(cost)
    target = alpha.double().clamp(1e-9, 1) * sizes
    counts = torch.maximum(budget.step_down((target + 1e-9).long(), sizes), least)
    while cost.at(counts) > limit:
        lower = torch.where(counts >= sizes, step_below(sizes, budget), counts - budget.divisor)
        can = lower >= least
        excess = torch.where(can, (counts / target).log(), -torch.inf)
        k = int(excess.argmax())
        counts[k] = lower[k]
    return spend_slack(counts, target, cost, budget, limit)


def step_below(sizes: Tensor, budget: Budget) -> Tensor:
    """The largest allowed count below the whole group."""
    return (sizes - 1) // budget.divisor * budget.divisor


def spend_slack(counts: Tensor, target: Tensor, cost: Cost, budget: Budget, limit: float) -> Tensor:
    """Add allowed steps, the group furthest below its target first, while one fits the limit."""
    sizes = cost.sizes
    counts = counts.clone()
    open_groups = counts < sizes
    while open_groups.any():
        shortfall = torch.where(open_groups, (target / counts).log(), -torch.inf)
        k = int(shortfall.argmax())
        trial = counts.clone()
        trial[k] = torch.minimum(counts[k] + budget.divisor, sizes[k])
        if cost.at(trial) > limit:
            open_groups[k] = False  # later steps only raise the cost: it will never fit
        else:
            counts = trial
            open_groups[k] = bool(counts[k] < sizes[k])
    return counts
