"""Networks as the explorer shows them: their runs, read once, and what their channels cost."""

import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from course.figures.frontier import Frontier, frontiers, place
from dsa_core.budget import Cost, QuadraticForm, Resource
from dsa_core.errors import ConfigError
from dsa_core.files import write_atomically
from dsa_core.lab.record import Record
from dsa_core.lab.record_files import find_records

RESOURCES: tuple[Resource, ...] = ("macs", "params")
STORED = Path(__file__).resolve().parents[3] / "data" / "records" / "costs.json"


@dataclass(frozen=True)
class Network:
    """All runs of one network on one dataset with one preset.

    Attributes:
        name: for people: "resnet8 on digits, quick".
        model: by its name.
        searches: runs by method, from the smallest budget to the largest, then by seed.
        frontiers: measured score against MACs, by method.
        score_name: "accuracy", say.
    """

    name: str
    model: str
    searches: dict[str, tuple[Record, ...]]
    frontiers: dict[str, Frontier]
    score_name: str

    @cached_property
    def costs(self) -> dict[Resource, Cost]:
        """By resource; see `costs_of`.

        Raises:
            ConfigError: a record is not of the network that its name builds.
        """
        costs = costs_of(self.model)
        for resource, cost in costs.items():
            for record in self.records:
                if record.costs[resource].dense != cost.dense:
                    raise ConfigError(
                        f"{self.name}: the record says {record.costs[resource].dense} {resource} "
                        f"dense, the network {self.model!r} has {cost.dense}: made with other "
                        "classes?"
                    )
        return costs

    @property
    def records(self) -> list[Record]:
        """All of them."""
        return [r for records in self.searches.values() for r in records]


def read_networks(*roots: Path) -> dict[str, Network]:
    """Read all runs that chose channels of a classifier from some files or folders of records.

    Runs of other tasks, and those that set single weights to zero, are passed over: they have no
    accuracy or no widths to show.

    Args:
        roots: files and folders of records, see `find_records`.

    Returns:
        Networks by name, in order of name.

    Raises:
        ConfigError: there is no run.
    """
    found: dict[str, list[Record]] = {}
    for record in find_records(*roots):
        if record.score_name == "accuracy" and record.method != "dtp-weight":
            name = f"{record.model} on {record.dataset}, {record.preset}"
            found.setdefault(name, []).append(record)
    if not found:
        where = ", ".join(map(str, roots)) or "no folder"
        raise ConfigError(
            f"no record of a classifier in {where}: make some with `dsa run --out FOLDER`, or name "
            "the folder that holds them"
        )
    return {name: network(name, records) for name, records in sorted(found.items())}


def passed(record: Record) -> Tensor:
    """Keep ratios on the way of a search, float64, shape (T, K), the end last.

    Of a method that does not follow a falling budget (SSL, MorphNet, AMC) only the end.
    """
    way = record.search.path if record.search else ()
    return torch.tensor([*way, [g.keep_ratio for g in record.groups]], dtype=torch.float64)


def network(name: str, records: list[Record]) -> Network:
    """Put the runs of one network together."""
    by_method: dict[str, list[Record]] = {}
    for r in sorted(records, key=lambda r: (place(r.method), r.asked_ratio, r.seed)):
        by_method.setdefault(r.method, []).append(r)
    searches = {method: tuple(found) for method, found in by_method.items()}
    first = records[0]
    return Network(name, first.model, searches, frontiers(records, "macs"), first.score_name)


@cache
def costs_of(model: str) -> dict[Resource, Cost]:
    """Costs of a network by name, from the file of `store_costs`; traced if it is not in there."""
    stored = json.loads(STORED.read_text()) if STORED.is_file() else {}
    if model not in stored:
        return traced_costs(model)
    return {resource: read_cost(resource, stored[model][resource]) for resource in RESOURCES}


def traced_costs(model: str) -> dict[Resource, Cost]:
    """Trace a network by name, and build its costs; the generator of torch is left alone.

    The name comes out of a file: code of others is not imported.
    """
    from dsa_core.lab import models
    from dsa_core.tracing import trace  # with torch.export it takes two seconds to load and to run

    with torch.random.fork_rng(devices=[]):
        graph = trace(models.build_known(model), models.example_input(model))
    return {resource: Cost.of(graph, resource) for resource in RESOURCES}


def store_costs(*names: str) -> None:
    """Trace networks, and write what their channels cost where `costs_of` finds it."""
    content = {
        name: {resource: as_json(cost) for resource, cost in traced_costs(name).items()}
        for name in names
    }
    write_atomically(STORED, json.dumps(content) + "\n")


def as_json(cost: Cost) -> dict[str, Any]:
    """The numbers of a cost; of Q the entries that are not zero, as row, column, value."""
    Q = cost.form.Q.to_sparse()
    return {
        "names": cost.names,
        "sizes": cost.sizes.tolist(),
        "Q": [*zip(*Q.indices().tolist(), Q.values().tolist(), strict=True)],
        "q": cost.form.q.tolist(),
        "constant": cost.form.constant,
    }


def read_cost(resource: Resource, stored: dict[str, Any]) -> Cost:
    """A cost from what `as_json` made of it."""
    q = torch.tensor(stored["q"], dtype=torch.float64)
    Q = torch.zeros(len(q), len(q), dtype=torch.float64)
    for row, column, value in stored["Q"]:
        Q[row, column] = value
    sizes = torch.tensor(stored["sizes"])
    return Cost(resource, QuadraticForm(Q, q, stored["constant"]), sizes, tuple(stored["names"]))
