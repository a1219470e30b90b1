"""What a network costs as a function of its keep ratios."""

import zlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dsa_core.channels import ChannelGraph
from dsa_core.errors import BudgetError

Resource = Literal["macs", "params", "latency"]


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
        if resource == "macs":
            form = macs_form(graph)
        elif resource == "params":
            form = params_form(graph)
        elif resource == "latency":
            raise BudgetError(
                "latency cannot be counted from the graph: time the network on its machine with "
                "calibrate(model, graph, x) or `dsa calibrate`, and take the calibration's cost"
            )
        else:
            raise BudgetError(f"resource must be 'macs' or 'params', got {resource!r}")
        return Cost(resource, form, graph.sizes, tuple(g.name for g in graph.prunable))

    @property
    def timed(self) -> bool:
        """Whether it was measured rather than counted."""
        return self.resource == "latency"

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

    @property
    def checksum(self) -> str:
        """CRC-32 of the form, eight hexadecimal digits: tells two calibrations apart."""
        numbers = torch.cat([self.form.Q.flatten(), self.form.q])
        text = f"{self.names} {self.form.constant!r}".encode() + numbers.numpy().tobytes()
        return f"{zlib.crc32(text):08x}"


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
