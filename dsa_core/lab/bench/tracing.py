"""How long it takes to follow every channel of a network."""

import importlib.util
import statistics
import time
import warnings
from collections.abc import Callable
from time import process_time
from typing import Any

from dsa_core.channels import follow
from dsa_core.lab import models
from dsa_core.lab.bench.figures import Figure, figure, ratios
from dsa_core.tracing import trace

PEER_NETWORKS = (
    "resnet18",
    "resnet50",
    "resnet56",
    "vgg16_bn",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "densenet121",
    "efficientnet_b0",
    "regnet_y_400mf",
    "googlenet",
    "squeezenet1_0",
    "convnext_tiny",
)


def trace_seconds(name: str, *, rounds: int) -> Figure:
    """Trace a network some times over, trial cut included; a small one first, to warm up."""
    warm_up(trace)
    model, x = models.build(name).eval(), models.example_input(name)
    seconds = [once(trace, model, x, clock=time.perf_counter) for _ in range(rounds)]
    return figure(seconds, "s", name)


def trace_over_peer(*, rounds: int) -> dict[str, Figure]:
    """CPU time to follow all channels of 12 networks, over that of torch-pruning's dependency
    graph, both without a trial cut; nothing where torch-pruning is not installed.

    Both are run in turn; of each network the median of the rounds counts.
    """
    if importlib.util.find_spec("torch_pruning") is None:
        return {}
    warm_up(follow)
    warm_up(peer_graph)
    found = []
    for name in PEER_NETWORKS:
        model, x = models.build(name).eval(), models.example_input(name)
        ours, theirs = zip(
            *((once(follow, model, x), once(peer_graph, model, x)) for _ in range(rounds)),
            strict=True,
        )
        found.append(statistics.median(ratios(ours, theirs)))
    note = f"{rounds} rounds; the spread is over 12 networks"
    return {"trace_over_torch_pruning": figure(found, "times", note)}


def peer_graph(model: Any, x: Any) -> None:
    """What torch-pruning builds before it prunes."""
    import torch_pruning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch_pruning.DependencyGraph().build_dependency(model, example_inputs=x)


def warm_up(way: Callable[[Any, Any], object]) -> None:
    """Run once on a small network: the first time, much is imported."""
    way(models.build("resnet8").eval(), models.example_input("resnet8"))


def once(
    way: Callable[[Any, Any], object], model: Any, x: Any, clock: Callable[[], float] = process_time
) -> float:
    """Seconds of one run."""
    start = clock()
    way(model, x)
    return clock() - start
