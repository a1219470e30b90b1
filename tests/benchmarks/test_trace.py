"""How the time of tracing grows with depth: `pytest -s tests/benchmarks/test_trace.py`.

Chains of 10 to 1,000 convolutions, each with BatchNorm and ReLU. Recording the operators is timed
by itself, and so is the part after it, without a trial cut. The exponent is the slope of log
seconds over log layers from 100 layers on (below, constant parts weigh in). Nothing here
fails by being slow.
"""

import math
import time

import torch
from torch import nn

from dsa_core.channels.assemble import interpret
from dsa_core.channels.recorder import record
from dsa_core.example import Call

DEPTHS = (10, 30, 100, 300, 1000)


def chain(depth: int) -> nn.Module:
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Conv2d(8 if i else 3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


def seconds(depth: int) -> tuple[float, float]:
    """CPU seconds of recording, and of following the channels through the operators."""
    model, call = chain(depth).eval(), Call.of(torch.randn(1, 3, 8, 8))
    start = time.process_time()
    program = record(model, call)
    recorded = time.process_time()
    graph = interpret(program, model, call, None)
    end = time.process_time()
    assert len(graph.prunable) == depth
    return recorded - start, end - recorded


def slope(points: list[tuple[int, float]]) -> float:
    """Least-squares slope of log seconds over log layers."""
    xs, ys = zip(*((math.log(n), math.log(s)) for n, s in points), strict=True)
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return above / sum((x - mean_x) ** 2 for x in xs)


def test_time_grows_linearly_with_depth() -> None:
    seconds(10)  # the first time, much is imported
    times = {depth: seconds(depth) for depth in DEPTHS}
    print(f"\n{'layers':>7} {'record s':>9} {'ours s':>9}")
    for depth, (recorded, ours) in times.items():
        print(f"{depth:7d} {recorded:9.3f} {ours:9.3f}")
    for part, name in enumerate(("record", "ours")):
        exponent = slope([(n, t[part]) for n, t in times.items() if n >= 100])
        print(f"exponent of {name}: {exponent:.2f}")
