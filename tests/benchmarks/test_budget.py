"""How cost and rounding grow with depth and width: `pytest -s tests/benchmarks/test_budget.py`.

Chains of 100 to 3,000 convolutions of 64 channels, every eighth of which also reads the first;
and 65,536 channels in few groups, rounded from far below the budget. Nothing here fails by being
slow; seconds are of CPU time.
"""

import time

import pytest
import torch
from problems_costs import chain_graph

from dsa_core.budget import Budget, Cost, round_to_channels


@pytest.mark.parametrize("resource", ["macs", "params"])
@pytest.mark.parametrize("layers", [100, 1000, 3000])
def test_cost_and_rounding(layers: int, resource: str) -> None:
    graph = chain_graph(layers)
    start = time.process_time()
    cost = Cost.of(graph, resource)  # type: ignore[arg-type]
    built = time.process_time()
    alpha = torch.rand(len(cost.sizes), generator=torch.Generator().manual_seed(0))
    budget = Budget(**{resource: 0.4})  # type: ignore[arg-type]
    counts = round_to_channels(alpha, cost, budget)
    end = time.process_time()
    print(
        f"\n{layers:5d} layers, {resource:6}: {built - start:.3f} s cost, {end - built:.3f} s round"
    )
    assert cost.at(counts) <= 0.4 * cost.dense


@pytest.mark.parametrize("layers", [2, 17, 257, 1025])
def test_rounding_of_65536_channels(layers: int) -> None:
    cost = Cost.of(chain_graph(layers, width=65536 // (layers - 1)), "macs")
    start = time.process_time()
    counts = round_to_channels(torch.full((layers - 1,), 0.01), cost, Budget(macs=0.9))
    print(f"\n{layers - 1:5d} groups: {time.process_time() - start:.3f} s")
    assert cost.at(counts) <= 0.9 * cost.dense
