"""What a network costs as a function of its keep ratios."""

import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Literal

import torch
from torch import Tensor

from dsa_core.channels import ChannelGraph
from dsa_core.errors import BudgetError

Resource = Literal["macs", "params", "latency"]
Tally = Counter[int]  # index of a group -> positions of it; STAYS -> positions that always stay
STAYS = -1


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
        alpha = alpha.to(self.q)
        return (self.Q.T @ alpha) @ alpha + self.q @ alpha + self.constant

    @cached_property
    def _both(self) -> Tensor:
        """Q + Q', shape (K, K)."""
        return self.Q + self.Q.T

    def gradient(self, alpha: Tensor) -> Tensor:
        """dF/dalpha, shape (K,)."""
        return self._both @ alpha.to(self.q) + self.q

    def scaled(self, factor: float) -> "QuadraticForm":
        """The same form in another unit."""
        return QuadraticForm(self.Q * factor, self.q * factor, self.constant * factor)


@dataclass(frozen=True)
class Cost:
    """One resource of one network; MACs and parameters are exact for whole channels.

    Attributes:
        resource: "macs" (one multiply-add of one example = 1), "params", or "latency": nanoseconds
            of a batch on one machine, fitted (see `calibration`).
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
        """Build the cost of a traced network, of what can be counted."""
        counted = {"macs": macs_form, "params": params_form}
        if resource == "latency":
            raise BudgetError(
                "latency cannot be counted from the graph: time the network on its machine with "
                "calibrate(model, graph, x) or `dsa calibrate`, and take the calibration's cost"
            )
        if resource not in counted:
            raise BudgetError(f"resource must be 'macs' or 'params', got {resource!r}")
        names = tuple(g.name for g in graph.prunable)
        return Cost(resource, counted[resource](graph), graph.sizes, names)

    @cached_property
    def dense(self) -> int:
        """The cost of the whole network."""
        return round(float(self.form(torch.ones(len(self.sizes)))))

    def at(self, counts: Tensor) -> int:
        """The exact cost with counts (K,) channels kept, as an integer."""
        return round(float(self.form(counts.double() / self.sizes.double())))

    @cached_property
    def relative(self) -> QuadraticForm:
        """The form in units of the dense cost, so that F(1) = 1."""
        return self.form.scaled(1.0 / self.dense)

    @property
    def checksum(self) -> str:
        """CRC-32 of the form, eight hexadecimal digits: tells two calibrations apart."""
        numbers = torch.cat([self.form.Q.flatten(), self.form.q])
        text = f"{self.names} {self.form.constant!r}".encode() + numbers.numpy().tobytes()
        return f"{zlib.crc32(text):08x}"


def macs_form(graph: ChannelGraph) -> QuadraticForm:
    """Sum of coefficient * rows * columns over the layers, and of the products of activations."""
    layers = ((layer.weight, layer.shape[:2], layer.coefficient) for layer in graph.layers)
    macs = Counter({STAYS: graph.fixed_macs})
    for total, heads in graph.products:
        for k, n in axis_length(graph, heads).items():
            macs[k] += total * n // len(heads)
    return sum_of_products(graph, layers, macs)


def params_form(graph: ChannelGraph) -> QuadraticForm:
    """Sum of the sizes of all parameters; buffers are not counted."""
    return sum_of_products(graph, ((name, shape, 1) for name, shape in graph.parameters.items()))


def sum_of_products(
    graph: ChannelGraph,
    tensors: Iterable[tuple[str, tuple[int, ...], int]],
    more: Tally | None = None,
) -> QuadraticForm:
    """Sum over (name, shape, factor) of factor * product over the axes of their kept positions,
    and what each group adds by itself.

    Each axis keeps  n'alpha + c  positions: n_k of its positions belong to group k, c always stay.
    Whole numbers are added up pair by pair of groups that meet in a layer.
    """
    pairs = Counter({(STAYS, k): n for k, n in (more or {}).items()})
    for name, shape, factor in tensors:
        rows, columns = two_axes(graph, name, shape)
        for (k, n), (j, m) in product(rows.items(), columns.items()):
            pairs[min(k, j), max(k, j)] += factor * n * m
    n_groups = len(graph.sizes)
    Q, q = (torch.zeros(shape, dtype=torch.float64) for shape in ((n_groups, n_groups), n_groups))
    for (k, j), total in pairs.items():
        if k >= 0:
            Q[k, j] = Q[j, k] = total if k == j else total / 2
        elif j >= 0:
            q[j] = total
    return QuadraticForm(Q, q, float(pairs[STAYS, STAYS]))


def two_axes(graph: ChannelGraph, name: str, shape: tuple[int, ...]) -> tuple[Tally, Tally]:
    """The lengths of the axes with channels; the others, which all stay, are one factor."""
    factor, lengths = 1, []
    for axis, size in enumerate(shape):
        channels = graph.axes.get(name, {}).get(axis)
        if channels is None:
            factor *= size
        else:
            lengths.append(axis_length(graph, channels))
    if len(lengths) > 2:
        raise BudgetError(f"{name} has channels on {len(lengths)} axes: its size is not quadratic")
    rows, columns = [*lengths, *[Counter({STAYS: 1})] * 2][:2]
    return Counter({k: factor * n for k, n in rows.items()}), columns


def axis_length(graph: ChannelGraph, channels: Tensor) -> Tally:
    """How many positions of an axis belong to each group, and how many always stay."""
    groups = torch.bucketize(channels, graph.offsets[1:], right=True)
    found, counts = torch.where(channels < 0, STAYS, groups).unique(return_counts=True)
    return Counter(dict(zip(found.tolist(), counts.tolist(), strict=True)))
