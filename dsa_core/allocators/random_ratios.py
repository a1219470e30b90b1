"""The random baseline: keep ratios by the dice, everything else as in the search."""

import math

import torch
from torch import Tensor, nn

from dsa_core.admm import KeepRatioOptimizer, Residuals, shift_to_budget
from dsa_core.admm.surface import to_ratios
from dsa_core.allocators.allocation import Allocation
from dsa_core.allocators.config import OnStep, SearchConfig, SearchData
from dsa_core.allocators.problem import Problem
from dsa_core.allocators.ratios import KeepRatioScheme
from dsa_core.allocators.search import search
from dsa_core.channels import ChannelGraph
from dsa_core.cost import Budget, QuadraticForm
from dsa_core.data import step_seed

SMALLEST = 0.2  # of the ratios drawn, as in AMC; on ResNet-20 they spread as widely as DSA's


class RandomRatios(KeepRatioOptimizer):
    """Follows the budget along one direction, drawn once.

    log alpha_k = v_k - c, with v_k uniform in [log 0.2, 0] and c such that F(alpha) = B.

    Args:
        cost: of the network.
        floors: least keep ratios, shape (K,).
        seed: of the direction.
    """

    uses_gradient = False

    def __init__(self, cost: QuadraticForm, floors: Tensor, seed: int) -> None:
        generator = torch.Generator().manual_seed(step_seed(seed, "random allocation"))
        drawn = torch.rand(len(floors), generator=generator, dtype=floors.dtype)
        state = {"alpha": floors.new_ones(len(floors)), "direction": math.log(SMALLEST) * drawn}
        super().__init__(cost, floors, state)

    @property
    def keep_ratios(self) -> Tensor:
        """Of the last step, shape (K,)."""
        return self._state["alpha"].clone()

    def step(self, gradient: Tensor, budget: float, *, step_scale: float = 1.0) -> Residuals:
        """Go to the budget."""
        shifted, _ = shift_to_budget(self._state["direction"], self.cost, budget, self.floors)
        alpha = to_ratios(shifted, self.floors)
        self._state = self._state | {"alpha": alpha}
        off = float(self.cost(alpha)) - budget
        return Residuals(primal=0.0, dual=0.0, budget=off, price=0.0, price_spread=0.0, clipped=0)


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
    optimizer = RandomRatios(problem.form, problem.floors, seed)
    return search(problem, KeepRatioScheme(problem, optimizer), on_step)
