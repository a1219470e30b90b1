"""Shipped runs, read once: records, the ways of their searches, and what their networks cost."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from course.figures.frontier import Frontier, frontiers, place
from dsa_core.allocation import falls
from dsa_core.budget import Cost, Resource
from dsa_core.errors import ConfigError
from dsa_core.lab import models
from dsa_core.lab.record import FILE, Record, read_record
from dsa_core.tracing import trace

RESOURCES: tuple[Resource, ...] = ("macs", "params")


@dataclass(frozen=True)
class Search:
    """One run and the way of its search.

    Attributes:
        record: of the run.
        passed: keep ratios of every update of a search whose budget fell and, last, those it ended
            with; float64, shape (T, K).
    """

    record: Record
    passed: Tensor


@dataclass(frozen=True)
class Network:
    """All shipped runs of one network on one dataset with one preset.

    Attributes:
        name: for people: "resnet8 on digits, quick".
        costs: by resource.
        searches: by method, from the smallest budget to the largest, then by seed.
        frontiers: measured score against MACs, by method.
        score_name: "accuracy", say.
    """

    name: str
    costs: dict[Resource, Cost]
    searches: dict[str, tuple[Search, ...]]
    frontiers: dict[str, Frontier]
    score_name: str

    @property
    def records(self) -> list[Record]:
        """All of them."""
        return [s.record for searches in self.searches.values() for s in searches]


def read_shelf(*folders: Path) -> dict[str, Network]:
    """Read all runs below some folders that chose channels of a classifier.

    Runs of other tasks, and those that set single weights to zero, are passed over: they have no
    accuracy or no widths to show. Each network is traced once, for its cost.

    Args:
        folders: hold folders with record.json and history.json, as `dsa run` writes them.

    Returns:
        Networks by name, in order of name.

    Raises:
        ConfigError: there is no run, a file is broken, or a record is not of the network that its
            name builds.
    """
    found: dict[str, list[Search]] = {}
    for path in sorted(path for folder in folders for path in folder.rglob(FILE)):
        record = read_record(path)
        if record.score_name != "accuracy" or record.method == "dtp-weight":
            continue
        name = f"{record.model} on {record.dataset}, {record.preset}"
        found.setdefault(name, []).append(Search(record, read_passed(path.parent, record)))
    if not found:
        where = ", ".join(map(str, folders)) or "no folder"
        raise ConfigError(
            f"no {FILE} below {where}: make some with `dsa run --out FOLDER`, or name the folder "
            "that holds them"
        )
    return {name: network(name, searches) for name, searches in sorted(found.items())}


def read_passed(folder: Path, record: Record) -> Tensor:
    """Keep ratios on the way of a search, shape (T, K), the end last.

    Of a method that does not follow a falling budget (SSL, MorphNet, AMC), or without a history,
    only the end.
    """
    end = [g.keep_ratio for g in record.groups]
    path = folder / "history.json"
    if not path.exists():
        return torch.tensor([end], dtype=torch.float64)
    history = json.loads(path.read_text())
    names = [g.name for g in record.groups]
    if history.get("groups") != names:
        raise ConfigError(f"{path}: its groups are not those of the record beside it, {names}")
    way = history["updates"]
    rows = way.get("keep_ratios", []) if falls(way.get("budget", [])) else []
    return torch.tensor([*rows, end], dtype=torch.float64)


def network(name: str, searches: list[Search]) -> Network:
    """Put the runs of one network together."""
    first = searches[0].record
    costs = costs_of(first.model)
    for resource, cost in costs.items():
        for record in (s.record for s in searches):
            if record.costs[resource].dense != cost.dense:
                raise ConfigError(
                    f"{name}: the record says {record.costs[resource].dense} {resource} dense, "
                    f"the network {first.model!r} has {cost.dense}: made with other classes?"
                )
    by_method: dict[str, list[Search]] = {}
    for s in sorted(searches, key=in_order):
        by_method.setdefault(s.record.method, []).append(s)
    curves = frontiers([s.record for s in searches], "macs")
    shelved = {method: tuple(found) for method, found in by_method.items()}
    return Network(name, costs, shelved, curves, first.score_name)


def in_order(search: Search) -> tuple[tuple[int, str], float, int]:
    """By method as in the frontier, by budget, by seed."""
    return place(search.record.method), search.record.asked_ratio, search.record.seed


@cache
def costs_of(model: str) -> dict[Resource, Cost]:
    """Trace a network by name, and build its costs; the generator of torch is left alone.

    The name comes out of a file: code of others is not imported.
    """
    with torch.random.fork_rng(devices=[]):
        graph = trace(models.build_known(model), models.example_input(model))
    return {resource: Cost.of(graph, resource) for resource in RESOURCES}
