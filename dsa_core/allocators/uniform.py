"""The uniform baseline: one keep ratio for every group, everything else as in the search."""

from torch import Tensor, nn

from dsa_core.admm import KeepRatioOptimizer, Residuals, uniform_ratio
from dsa_core.allocators.allocation import Allocation
from dsa_core.allocators.config import OnStep, SearchConfig, SearchData
from dsa_core.allocators.problem import Problem
from dsa_core.allocators.ratios import KeepRatioScheme
from dsa_core.allocators.search import search
from dsa_core.channels import ChannelGraph
from dsa_core.cost import Budget, QuadraticForm


class UniformRatios(KeepRatioOptimizer):
    """Follows the budget with one ratio for all groups, solved from F(alpha) = B."""

    uses_gradient = False

    def __init__(self, cost: QuadraticForm, floors: Tensor) -> None:
        super().__init__(cost, floors, {"alpha": floors.new_ones(len(floors))})

    @property
    def keep_ratios(self) -> Tensor:
        """One ratio, raised to the floor where that is higher, shape (K,)."""
        return self._state["alpha"].clone()

    def step(self, gradient: Tensor, budget: float, *, step_scale: float = 1.0) -> Residuals:
        """Go to the budget."""
        alpha = uniform_ratio(self.cost, budget, self.floors)
        self._state = {"alpha": alpha}
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
    """Give every group the same keep ratio.

    The network is trained under masks exactly as in the search of DSA, with the same schedule of
    budget and sharpness, so that the difference to DSA is the allocation alone. The paper has no
    such row.
    """
    problem = Problem("uniform", model, graph, budget, data, config, seed)
    optimizer = UniformRatios(problem.form, problem.floors)
    return search(problem, KeepRatioScheme(problem, optimizer), on_step)
