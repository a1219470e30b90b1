"""The uniform baseline: one keep ratio for every group, everything else as in the search."""

import torch
from torch import nn

from dsa_core.allocation import Allocation
from dsa_core.budget import Budget
from dsa_core.channels import ChannelGraph
from dsa_core.methods.config import OnStep, SearchConfig, SearchData
from dsa_core.methods.fixed_direction import FixedDirection
from dsa_core.methods.problem import Problem
from dsa_core.methods.ratios import KeepRatioScheme
from dsa_core.methods.search import search


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
    """Give every group the same keep ratio.

    The network is trained under masks exactly as in the search of DSA, with the same schedule of
    budget and sharpness, so that the difference to DSA is the allocation alone. The paper has no
    such row.
    """
    problem = Problem("uniform", model, graph, budget, data, config, seed)
    optimizer = FixedDirection(problem.form, problem.floors, torch.zeros_like(problem.floors))
    return search(problem, KeepRatioScheme(problem, optimizer), on_step)
