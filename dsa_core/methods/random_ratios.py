"""The random baseline: keep ratios by the dice, everything else as in the search."""

import math

import torch
from torch import Tensor, nn

from dsa_core.allocation import Allocation
from dsa_core.budget import Budget
from dsa_core.channels import ChannelGraph
from dsa_core.methods.config import OnStep, SearchConfig, SearchData
from dsa_core.methods.fixed_direction import FixedDirection
from dsa_core.methods.problem import Problem
from dsa_core.methods.ratios import KeepRatioScheme
from dsa_core.methods.search import search
from dsa_core.training.seeds import step_seed

SMALLEST = 0.2  # of the ratios drawn, as in AMC; on ResNet-20 they spread as widely as DSA's


def direction(floors: Tensor, seed: int) -> Tensor:
    """v of `FixedDirection`, uniform in [log 0.2, 0]; of the shape and type of the floors, (K,)."""
    generator = torch.Generator().manual_seed(step_seed(seed, "random allocation"))
    return math.log(SMALLEST) * torch.rand(len(floors), generator=generator, dtype=floors.dtype)


def allocate(
    model: nn.Module,
    graph: ChannelGraph,
    budget: Budget,
    data: SearchData,
    config: SearchConfig,
    *,
    seed: int,
    on_step: OnStep | None = None,
) -> Allocation:
    """Give every group a keep ratio by the dice, at the budget.

    The network is trained under masks exactly as in the search of DSA and of the uniform baseline.
    What runs of many seeds spread by is what an allocation can win or lose. The paper has no such
    row.
    """
    problem = Problem("random", model, graph, budget, data, config, seed)
    optimizer = FixedDirection(problem.form, problem.floors, direction(problem.floors, seed))
    return search(problem, KeepRatioScheme(problem, optimizer), on_step)
