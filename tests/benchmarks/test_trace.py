"""How the time of tracing grows with depth: `pytest -s tests/benchmarks/test_trace.py`.

Chains of 10 to 1,000 convolutions, each with BatchNorm and ReLU. `torch.export` is timed by
itself: what it takes is not ours. The exponent is the slope of log seconds over log layers from
100 layers on (below, constant parts weigh in). Nothing here fails by being slow.
"""

import math
import time
from unittest.mock import patch

import torch
from torch import nn

import dsa_core.channels.assemble as assemble_module
from dsa_core.channels import follow
from dsa_core.channels.export import export
from dsa_core.example import Call

DEPTHS = (10, 30, 100, 300, 1000)


def chain(depth: int) -> nn.Module:
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Conv2d(8 if i else 3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


def seconds(depth: int) -> tuple[float, float]:
    """CPU seconds of the export, and of following the channels through its graph."""
    model, x = chain(depth).eval(), torch.randn(1, 3, 8, 8)
    start = time.process_time()
    program = export(model, Call.of(x))
    exported = time.process_time()
    with patch.object(assemble_module, "export", lambda *_: program):
        graph = follow(model, x)
    end = time.process_time()
    assert len(graph.prunable) == depth
    return exported - start, end - exported


def slope(points: list[tuple[int, float]]) -> float:
    """Least-squares slope of log seconds over log layers."""
    xs, ys = zip(*((math.log(n), math.log(s)) for n, s in points), strict=True)
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return above / sum((x - mean_x) ** 2 for x in xs)


def test_time_grows_linearly_with_depth() -> None:
    seconds(10)  # the first export imports half of torch
    times = {depth: seconds(depth) for depth in DEPTHS}
    print(f"\n{'layers':>7} {'export s':>9} {'ours s':>9}")
    for depth, (exported, ours) in times.items():
        print(f"{depth:7d} {exported:9.3f} {ours:9.3f}")
    for part, name in enumerate(("export", "ours")):
        exponent = slope([(n, t[part]) for n, t in times.items() if n >= 100])
        print(f"exponent of {name}: {exponent:.2f}")
