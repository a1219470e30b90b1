"""How long it takes to follow every channel of a network."""

import time

from dsa_core.lab import models
from dsa_core.lab.bench.figures import Figure, figure
from dsa_core.tracing import trace


def trace_seconds(name: str, *, rounds: int) -> Figure:
    """Trace a network some times over, `torch.export` included; a small one first, to warm up."""
    small = models.build("resnet8")
    trace(small, models.example_input("resnet8"))
    model, x = models.build(name).eval(), models.example_input(name)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        trace(model, x)
        seconds.append(time.perf_counter() - start)
    return figure(seconds, "s", name)
