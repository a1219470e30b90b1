"""The history of a search: every update of the keep ratios, and the part kept in a record."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from dsa_core.allocation import MET, falls
from dsa_core.budget import Cost
from dsa_core.channels import ChannelGraph
from dsa_core.lab.record import SearchRecord
from dsa_core.methods import Allocation

HISTORY = "history.json"
FIRST = 100  # number of updates whose losses a record keeps
STEPS = np.arange(1, 101) / 100  # cost ratios at which a record keeps an update


def history_of(allocation: Allocation) -> dict[str, Any]:
    """Every update of the keep ratios and every epoch, as plain data for JSON."""
    updates = [{**asdict(u), **u.figures} for u in allocation.updates]
    names = sorted({k for u in updates for k in u} - {"figures"})
    return {
        "groups": [g.name for g in allocation.graph.prunable],
        "sizes": allocation.graph.sizes.tolist(),
        "updates": {k: [rounded(u.get(k, math.nan)) for u in updates] for k in names},
        "epochs": list(allocation.epochs),
    }


def rounded(value: float | int | tuple[float, ...]) -> float | int | list[float] | None:
    """Six significant digits; NaN, which JSON lacks, becomes null."""
    if isinstance(value, tuple):
        return [float(f"{v:.6g}") for v in value]
    if isinstance(value, int):
        return value
    return float(f"{value:.6g}") if value == value else None


def search_record(history: Mapping[str, Any], graph: ChannelGraph) -> SearchRecord:
    """The part of a history kept in a record."""
    updates = history["updates"]
    return SearchRecord(
        updates=len(updates.get("keep_ratios", [])),
        path=path_of(updates, graph) if falls(updates.get("budget", [])) else (),
        first_losses=tuple(updates.get("loss", [])[:FIRST]),
        epoch_seconds=tuple(epoch["seconds"] for epoch in history["epochs"]),
    )


def path_of(updates: Mapping[str, Any], graph: ChannelGraph) -> tuple[tuple[float, ...], ...]:
    """The updates that answer a budget of each whole per cent of cost, MACs or parameters."""
    ratios = updates["keep_ratios"]
    forms = [Cost.of(graph, resource).relative for resource in ("macs", "params")]
    passed = torch.tensor(ratios, dtype=torch.float64)
    columns = [updates["cost"], *([float(form(row)) for row in passed] for form in forms)]
    kept = {i for costs in columns for i in passing(costs)}
    return tuple(tuple(ratios[i]) for i in sorted(kept))


def passing(costs: Sequence[float]) -> set[int]:
    """Indices of the last update not below each whole per cent of the dense cost, and both ends.

    At these budgets `ratios_on_path` gives the same answer on them as on all updates.

    Args:
        costs: of every update, in order, as ratios of the dense cost, shape (T,).
    """
    path = np.asarray(costs)
    above = path[:, None] >= STEPS * (1 - MET)  # (T, 100)
    last = len(path) - 1 - above[::-1].argmax(0)
    return {*last.tolist(), int(path.argmin()), int(path.argmax())}
