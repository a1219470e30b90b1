"""What a network costs as a function of its keep ratios, and the budget it must meet."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from dsa_core.channels import ChannelGraph
from dsa_core.errors import BudgetError

Resource = Literal["macs", "params"]


@dataclass(frozen=True)
class QuadraticForm:
    """F(a) = a'Qa + q'a + constant, for keep ratios a of shape (K,).

    Attributes:
        Q: shape (K, K), float64, entries >= 0.
        q: shape (K,), float64, entries >= 0.
        constant: cost of what no keep ratio changes.

    Source: Ning et al., DSA, ECCV 2020 (arXiv:2004.02164), budget model F(A) = A'QA + q'A.
    """

    Q: Tensor
    q: Tensor
    constant: float

    def __call__(self, alpha: Tensor) -> Tensor:
        """The cost at keep ratios alpha (K,), shape ()."""
        alpha = alpha.to(self.Q)
        return alpha @ self.Q @ alpha + self.q @ alpha + self.constant

    def gradient(self, alpha: Tensor) -> Tensor:
        """dF/dalpha, shape (K,)."""
        alpha = alpha.to(self.Q)
        return (self.Q + self.Q.T) @ alpha + self.q

    def scaled(self, factor: float) -> "QuadraticForm":
        """The same form in another unit."""
        return QuadraticForm(self.Q * factor, self.q * factor, self.constant * factor)


@dataclass(frozen=True)
class Cost:
    """One resource of one network, exact for whole channels.

    Attributes:
        resource: "macs" (one multiply-add of one example = 1) or "params".
        form: cost in that unit as a function of the keep ratios.
        sizes: channels of every prunable group, int64, shape (K,).
        names: of the groups.
    """

    resource: Resource
    form: QuadraticForm
    sizes: Tensor
    names: tuple[str, ...]

    @staticmethod
    def of(graph: ChannelGraph, resource: Resource) -> "Cost":
        """Build the cost of a traced network."""
        if resource == "macs":
            form = macs_form(graph)
        elif resource == "params":
            form = params_form(graph)
        else:
            raise BudgetError(f"resource must be 'macs' or 'params', got {resource!r}")
        return Cost(resource, form, graph.sizes, tuple(g.name for g in graph.prunable))

    @property
    def dense(self) -> int:
        """The cost of the whole network."""
        return round(float(self.form(torch.ones(len(self.sizes)))))

    def at(self, counts: Tensor) -> int:
        """The exact cost with counts (K,) channels kept, as an integer."""
        return round(float(self.form(counts.double() / self.sizes.double())))

    @property
    def relative(self) -> QuadraticForm:
        """The form in units of the dense cost, so that F(1) = 1."""
        return self.form.scaled(1.0 / self.dense)


def macs_form(graph: ChannelGraph) -> QuadraticForm:
    """Sum of coefficient * rows * columns over the layers; products of activations are constant."""
    total = Accumulator.zeros(graph)
    total.constant += graph.fixed_macs
    for layer in graph.layers:
        total.add(graph, layer.weight, layer.shape[:2], layer.coefficient)
    return total.form()


def params_form(graph: ChannelGraph) -> QuadraticForm:
    """Sum of the sizes of all parameters; buffers are not counted."""
    total = Accumulator.zeros(graph)
    for name, shape in graph.parameters.items():
        total.add(graph, name, shape, 1)
    return total.form()


@dataclass
class Accumulator:
    """Adds up products of axis lengths, each length being linear in the keep ratios."""

    Q: Tensor
    q: Tensor
    constant: float = 0.0

    @staticmethod
    def zeros(graph: ChannelGraph) -> "Accumulator":
        """Nothing yet."""
        n = len(graph.prunable)
        return Accumulator(
            torch.zeros(n, n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
        )

    def add(self, graph: ChannelGraph, name: str, shape: tuple[int, ...], factor: int) -> None:
        """Add factor * product over the axes of (kept positions of that axis).

        Each axis keeps  n'alpha + c  positions: n_k of its positions belong to group k, c always
        stay.
        """
        lengths = []
        for axis, size in enumerate(shape):
            channels = graph.axes.get(name, {}).get(axis)
            if channels is None:
                factor *= size
            else:
                lengths.append(axis_length(graph, channels))
        if len(lengths) > 2:
            raise BudgetError(
                f"{name} has channels on {len(lengths)} axes: its size is not quadratic"
            )
        while len(lengths) < 2:
            lengths.append((torch.zeros_like(self.q), 1.0))
        (n0, c0), (n1, c1) = lengths
        self.Q += factor * torch.outer(n0, n1)
        self.q += factor * (c1 * n0 + c0 * n1)
        self.constant += factor * c0 * c1

    def form(self) -> QuadraticForm:
        """The sum, with Q made symmetric."""
        return QuadraticForm((self.Q + self.Q.T) / 2, self.q, self.constant)


def axis_length(graph: ChannelGraph, channels: Tensor) -> tuple[Tensor, float]:
    """How many positions of an axis each group holds (K,), and how many always stay."""
    groups = torch.bucketize(channels[channels >= 0], graph.offsets[1:], right=True)
    counts = torch.bincount(groups, minlength=len(graph.prunable)).double()
    return counts, float((channels < 0).sum())


@dataclass(frozen=True)
class Budget:
    """What the pruned network may cost, as a ratio in (0, 1] of the dense cost.

    Attributes:
        macs, params: exactly one is given.
        floors: group name -> smallest keep ratio in [0, 1]; the name "*" stands for all others.
        divisor: kept channels are multiples of it (or the whole group); at least one channel stays.
    """

    macs: float | None = None
    params: float | None = None
    floors: Mapping[str, float] = field(default_factory=dict)
    divisor: int = 1

    def __post_init__(self) -> None:
        if (self.macs is None) == (self.params is None):
            raise BudgetError("a budget names one resource: Budget(macs=0.5) or Budget(params=0.3)")
        if not 0 < self.ratio <= 1:
            raise BudgetError(f"{self.resource} must be a ratio in (0, 1], got {self.ratio}")
        if self.divisor < 1:
            raise BudgetError(f"divisor must be at least 1, got {self.divisor}")
        for name, floor in self.floors.items():
            if not 0 <= floor <= 1:
                raise BudgetError(f"the floor of {name!r} must be in [0, 1], got {floor}")

    @property
    def resource(self) -> Resource:
        """The resource that is limited."""
        return "macs" if self.macs is not None else "params"

    @property
    def ratio(self) -> float:
        """The limit as a ratio of the dense cost."""
        value = self.macs if self.macs is not None else self.params
        assert value is not None
        return value

    def with_ratio(self, ratio: float) -> "Budget":
        """The same budget with another limit."""
        macs, params = (ratio, None) if self.macs is not None else (None, ratio)
        return Budget(macs=macs, params=params, floors=self.floors, divisor=self.divisor)

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
