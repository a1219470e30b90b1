"""Is a pruned network really faster? Dense and pruned in turn, in every format."""

import copy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from dsa_core.budget import Budget, Cost, round_to_channels, uniform_ratio
from dsa_core.lab import models
from dsa_core.lab.bench.figures import Figure, figure, ratios
from dsa_core.lab.latency import Latency, forward_times, onnx_call, summary
from dsa_core.masks import top_channels
from dsa_core.ranking import importance
from dsa_core.surgery import export_onnx, prune
from dsa_core.tracing import trace
from dsa_core.training import FP32, Precision, place_model
from dsa_core.training.stopwatch import in_turn


@dataclass(frozen=True)
class Pair:
    """A dense network and a pruned one.

    Attributes:
        name: of the network.
        dense, pruned: on the device, in float32.
        mac_reduction: MACs of the dense over those of the pruned one, counted for whole channels.
        divisor: of the widths.
    """

    name: str
    dense: nn.Module
    pruned: nn.Module
    mac_reduction: float
    divisor: int


@dataclass(frozen=True)
class Row:
    """Dense and pruned latency in one format.

    Attributes:
        dense, pruned: latencies.
        speedup: dense over pruned, round by round.
        over_macs: speedup over the reduction of MACs; 1 = every MAC saved is time saved.
        how: "", "compiled" (by `torch.compile`) or "ONNX Runtime".
    """

    dense: Latency
    pruned: Latency
    speedup: Figure
    over_macs: Figure
    how: str = ""


def fresh(name: str) -> nn.Module:
    """A network with the same fresh weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return models.build(name)


def uniform_pair(
    name: str, *, macs: float = 0.5, divisor: int = 1, device: torch.device | str = "cpu"
) -> Pair:
    """Build a network with fresh weights, and cut the same share of every group.

    Latency does not depend on the weights, so nothing is trained.

    Args:
        name: as `models.build` knows it.
        macs: budget, a ratio in (0, 1].
        divisor: kept channels are multiples of it.
        device: where both go.
    """
    dense = fresh(name).eval()
    graph = trace(dense, models.example_input(name))
    budget, cost = Budget(macs=macs, divisor=divisor), Cost.of(graph, "macs")
    floors = budget.least_counts(cost).double() / cost.sizes
    counts = round_to_channels(uniform_ratio(cost.relative, macs, floors), cost, budget)
    pruned = prune(dense, graph, top_channels(importance(dense, graph), counts, graph))
    reduction = cost.dense / cost.at(counts)
    return Pair(name, dense.to(device), pruned.to(device), reduction, divisor)


def compare(
    pair: Pair, x: Tensor, precision: Precision, *, repeats: int = 15, compiled: bool = False
) -> Row:
    """Time the dense and the pruned network in turn.

    Args:
        pair: the networks.
        x: one batch, on their device.
        precision: number format and memory order.
        repeats: rounds.
        compiled: by `torch.compile`; the first pass, uncounted, then takes long.
    """
    both = [ready(m, precision, compiled) for m in (pair.dense, pair.pruned)]
    times = forward_times(both, x, repeats=repeats, precision=precision)
    return row(pair, times, x, precision, how="compiled" * compiled)


def compare_onnx(pair: Pair, x: Tensor, *, repeats: int = 15) -> Row:
    """Time both in turn in ONNX Runtime, on the CPU in float32, on as many threads as torch."""
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}.onnx" for name in ("dense", "pruned")]
        for path, model in zip(paths, (pair.dense, pair.pruned), strict=True):
            export_onnx(model, path, x[:2])
        calls = [onnx_call(path, x) for path in paths]
    return row(pair, in_turn(calls, torch.device("cpu"), repeats=repeats), x, FP32, "ONNX Runtime")


def row(pair: Pair, times: list[list[float]], x: Tensor, precision: Precision, how: str) -> Row:
    """Put the times of the dense and the pruned network together, round by round."""
    dense, pruned = times
    faster = ratios(dense, pruned)
    return Row(
        dense=summary(dense, x, precision),
        pruned=summary(pruned, x, precision),
        speedup=figure(faster, "times"),
        over_macs=figure([f / pair.mac_reduction for f in faster], "times"),
        how=how,
    )


def ready(model: nn.Module, precision: Precision, compiled: bool) -> nn.Module:
    """A copy in the wanted memory order, compiled if asked."""
    model = copy.deepcopy(model)
    place_model(model, precision)
    return torch.compile(model) if compiled else model  # type: ignore[return-value]


def formats() -> list[Precision]:
    """Every number format in both memory orders."""
    return [Precision(name, order) for name in ("fp32", "bf16") for order in (False, True)]
