"""How long it takes to follow every channel of a network, and to verify what was found."""

import copy
import importlib.util
import statistics
import time
import warnings
from collections.abc import Callable
from time import process_time
from typing import Any

import torch
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

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


def verification_cost(*, rounds: int) -> dict[str, Figure]:
    """The trial cut of 12 networks: forward passes, and CPU time over that of two of them.

    Its time is what `trace` takes above `follow`: also the copy, the cut and torch's count of MACs.
    The two passes are in float64, as those of the trial.
    """
    warm_up(trace)
    passes, found = [], []
    for name in PEER_NETWORKS:
        model, x = models.build(name).eval(), models.example_input(name)
        passes.append(forward_passes(trace, model, x) - forward_passes(follow, model, x))
        exact, y = copy.deepcopy(model).double(), x.double()
        turns = [
            (once(trace, model, x), once(follow, model, x), once(two_passes, exact, y))
            for _ in range(rounds)
        ]
        found.append(statistics.median((full - bare) / pair for full, bare, pair in turns))
    note = f"{rounds} rounds; the spread is over 12 networks"
    return {
        "verification_passes": figure(passes, "passes", "over 12 networks"),
        "verification_over_two_passes": figure(found, "times", note),
    }


def forward_passes(way: Callable[[Any, Any], object], model: Any, x: Any) -> int:
    """How often a whole network runs meanwhile: a module that no other module calls."""
    open_calls, runs = 0, 0

    def enter(*_: object) -> None:
        nonlocal open_calls, runs
        runs += open_calls == 0
        open_calls += 1

    def leave(*_: object) -> None:
        nonlocal open_calls
        open_calls -= 1

    hooks = [
        register_module_forward_pre_hook(enter),
        register_module_forward_hook(leave, always_call=True),
    ]
    try:
        way(model, x)
    finally:
        for hook in hooks:
            hook.remove()
    return runs


@torch.no_grad()
def two_passes(model: Any, x: Any) -> None:
    """Run a network twice."""
    model(x)
    model(x)


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
