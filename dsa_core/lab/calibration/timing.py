"""Time networks of many widths, and fit their latency."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from dsa_core.channels import ChannelGraph
from dsa_core.lab.calibration.fitted import Calibration
from dsa_core.lab.calibration.form import connected_pairs, corners, errors, fit, sampled
from dsa_core.lab.latency import latencies
from dsa_core.lab.machine import device_name
from dsa_core.masks import top_channels
from dsa_core.surgery import prune
from dsa_core.training import FP32, Precision, place_model


class CalibrationSettings(BaseModel):
    """What to time; frozen, and an unknown name is an error.

    Attributes:
        divisor: widths are multiples of it, as in the budget of the search.
        spread: number of random widths to fit; None for the number of terms of the form.
        held_out: number of random widths to evaluate the fit on.
        lowest: smallest keep ratio.
        rounds: visits of each width, in a new random order each round.
        passes: timed passes per visit.
        seed: of widths and order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    divisor: int = Field(default=1, ge=1)
    spread: int | None = Field(default=None, ge=1)
    held_out: int = Field(default=12, ge=1)
    lowest: float = Field(default=0.1, gt=0, lt=1)
    rounds: int = Field(default=2, ge=1)
    passes: int = Field(default=4, ge=1)
    seed: int = 0


def calibrate(
    model: nn.Module,
    graph: ChannelGraph,
    x: Tensor,
    settings: CalibrationSettings | None = None,
    *,
    precision: Precision = FP32,
    name: str = "",
    on_visit: Callable[[int, int], None] | None = None,
    timer: Callable[[nn.Module], float] | None = None,
) -> Calibration:
    """Fit latency as a quadratic form of the keep ratios, on this machine.

    Networks of many widths are cut and timed: the dense one, the smallest, each group alone at its
    smallest, and a Latin hypercube in between. The terms are those of the MACs, a constant, and
    every a_k. The weights do not matter.

    Args:
        model: the network, on its device; not changed.
        graph: of the model.
        x: the batch to time, on that device.
        settings: what to time.
        precision: number format and memory order.
        name: of the model, for messages.
        on_visit: called with the number of visits done and in total.
        timer: returns the milliseconds of a pruned network; None measures.
    """
    settings = settings or CalibrationSettings()
    started, pairs = time.perf_counter(), connected_pairs(graph)
    counts = widths(graph.sizes, len(pairs), settings)

    def measured(pruned: nn.Module) -> float:
        return latencies([pruned], x, repeats=settings.passes, precision=precision)[0].min_ms

    def timed(kept: Tensor) -> float:
        pruned = prune(model, graph, top_channels(torch.ones(graph.n_channels), kept, graph))
        place_model(pruned, precision)
        return (timer or measured)(pruned)

    ms = visit([partial(timed, kept) for kept in counts], settings, on_visit)
    alpha = (counts.double() / graph.sizes).numpy()
    fitted, held = slice(None, -settings.held_out), slice(-settings.held_out, None)
    found = fit(alpha[fitted], ms[fitted], pairs)
    outside = errors(found, alpha[held], ms[held], pairs)
    products = zip(pairs, found[1 + len(graph.sizes) :].tolist(), strict=True)
    return Calibration(
        model=name,
        shape=tuple(x.shape),
        device=device_name(x.device),
        precision=precision.name,
        channels_last=precision.channels_last,
        divisor=settings.divisor,
        groups=tuple(g.name for g in graph.prunable),
        sizes=tuple(graph.sizes.tolist()),
        constant_ms=float(found[0]),
        linear_ms=tuple(found[1 : 1 + len(graph.sizes)].tolist()),
        pairs_ms=tuple((*pair, c) for pair, c in products if c > 0),
        dense_ms=float(ms[0]),
        configurations=len(ms[fitted]),
        fit_error_median=float(np.median(errors(found, alpha[fitted], ms[fitted], pairs))),
        held_out=settings.held_out,
        error_median=float(np.median(outside)),
        error_max=float(outside.max()),
        passes=settings.rounds * settings.passes,
        seconds=time.perf_counter() - started,
    )


def widths(sizes: Tensor, n_pairs: int, settings: CalibrationSettings) -> Tensor:
    """The widths to time, the dense network first and the held-out ones last, shape (n, K)."""
    spread = settings.spread or 1 + len(sizes) + n_pairs
    ends = corners(sizes, lowest=settings.lowest, divisor=settings.divisor)
    inside = [
        sampled(sizes, n, lowest=settings.lowest, divisor=settings.divisor, seed=seed)
        for n, seed in ((spread, settings.seed), (settings.held_out, settings.seed + 1))
    ]
    return torch.cat([ends, *inside])


def visit(
    timers: Sequence[Callable[[], float]],
    settings: CalibrationSettings,
    on_visit: Callable[[int, int], None] | None,
) -> np.ndarray:
    """The shortest time of every width over all rounds, shape (n,), milliseconds."""
    draw, best = np.random.default_rng(settings.seed), np.full(len(timers), np.inf)
    order = [i for _ in range(settings.rounds) for i in draw.permutation(len(timers))]
    for done, i in enumerate(order, start=1):
        best[i] = min(best[i], timers[i]())
        if on_visit is not None:
            on_visit(done, len(order))
    return best
