"""What DTP keeps or removes one by one: the channels of a network, or its single weights."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from dsa_core.budget import Budget, Cost, QuadraticForm
from dsa_core.errors import BudgetError
from dsa_core.kernels.segments import segment_ids
from dsa_core.masks import masked_parameters
from dsa_core.methods.problem import Problem
from dsa_core.ranking import importance


class Units(ABC):
    """All units of a network in one flat vector, group after group.

    Attributes:
        cost: of the resource that the budget limits, in keep ratios of the groups.
        offsets: bounds of the groups, shape (G + 1,), int64, on the device of the model.
        floors: smallest keep ratio of every group, float64, shape (G,).
        score_lr: learning rate of their scores where the settings name none.
    """

    score_lr: float

    def __init__(self, problem: Problem, cost: Cost) -> None:
        self.problem, self.cost = problem, cost
        ends = torch.cat([torch.zeros(1, dtype=torch.int64), cost.sizes.cumsum(0)])
        self.offsets = ends.to(problem.device)
        self.floors = problem.budget.least_counts(cost).double() / cost.sizes

    @abstractmethod
    def importance(self) -> Tensor:
        """What the units are worth at the start, shape (n,)."""

    @abstractmethod
    def masked(self, parameters: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """The parameters that the units lie in, times the mask (n,)."""


class Channels(Units):
    """Channels, by the groups of the graph."""

    score_lr = 5.0

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem, problem.cost)

    def importance(self) -> Tensor:
        """As the search ranks them."""
        return importance(self.problem.model, self.problem.graph, self.problem.config.importance)

    def masked(self, parameters: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """At the consumers of every channel."""
        return masked_parameters(parameters, self.problem.graph, mask)


class Weights(Units):
    """Single weights of all convolutions and linear layers; a tensor is a group.

    Biases and the scales of normalisations stay; they count as parameters.

    Args:
        problem: its budget limits the parameters.

    Raises:
        BudgetError: it limits something else, or asks for a divisor.
    """

    score_lr = 100.0

    def __init__(self, problem: Problem) -> None:
        check_single_weights(problem.budget)
        graph = problem.graph
        self.shapes = {
            layer.weight: graph.parameters[layer.weight]
            for layer in graph.layers
            if layer.weight in graph.parameters
        }
        sizes = torch.tensor([prod(shape) for shape in self.shapes.values()])
        total = Cost.of(graph, "params").dense
        nothing = torch.zeros(len(sizes), len(sizes), dtype=torch.float64)
        form = QuadraticForm(nothing, sizes.double(), float(total - int(sizes.sum())))
        cost = Cost("params", form, sizes, tuple(self.shapes))
        problem.budget.check(cost)
        super().__init__(problem, cost)

    def importance(self) -> Tensor:
        """The size |w|."""
        state = dict(self.problem.model.named_parameters())
        return torch.cat([state[name].detach().float().abs().flatten() for name in self.shapes])

    def masked(self, parameters: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """Each weight times its own entry."""
        return {
            name: parameters[name] * part.to(parameters[name].dtype)
            for name, part in self.by_tensor(mask).items()
        }

    def by_tensor(self, flat: Tensor) -> dict[str, Tensor]:
        """Cut a flat vector (n,) into the shapes of the tensors."""
        parts = flat.split(self.cost.sizes.tolist())
        return {
            name: part.reshape(shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


def check_single_weights(budget: Budget) -> None:
    """Refuse a budget that has no meaning for single weights.

    Raises:
        BudgetError: says what to ask for instead.
    """
    if budget.resource != "params":
        raise BudgetError(
            f"dtp-weight removes single weights, which saves no {budget.resource} in a dense "
            f"convolution: ask for params={budget.ratio:g}, or use the method dtp for channels"
        )
    if budget.divisor != 1:
        raise BudgetError(
            f"divisor={budget.divisor}: dtp-weight keeps an exact number of single weights; leave "
            "the divisor at 1, or use the method dtp for channels"
        )


def ranks(importance: Tensor, offsets: Tensor) -> Tensor:
    """Scores by the order within each group: (rank + 1/2) / size, in (0, 1).

    The least important unit of n scores 1 / 2n, the most important 1 - 1 / 2n; of equals the first
    ranks higher. So every group has the same scores, whatever the scale of its importance, and at
    first one threshold for all groups is the uniform allocation: what departs from it later, the
    loss has asked for.

    Args:
        importance: shape (n,).
        offsets: bounds of the groups, shape (G + 1,).

    Returns:
        Scores, shape (n,), float32.
    """
    ids = segment_ids(offsets)
    order = importance.argsort(descending=True, stable=True)
    order = order[ids[order].argsort(stable=True)]  # by group, the most important first
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    sizes = offsets.diff()[ids]
    below = sizes - 1 - (place - offsets[ids])
    return ((below.double() + 0.5) / sizes).float()


def keep_most(score: Tensor, counts: Tensor, offsets: Tensor) -> Tensor:
    """The `counts` (G,) highest scores of every group, bool, shape (n,); ties go to the first."""
    ids = segment_ids(offsets)
    order = score.argsort(descending=True, stable=True)
    order = order[ids[order].argsort(stable=True)]
    keep = torch.empty(len(score), dtype=torch.bool, device=score.device)
    keep[order] = torch.arange(len(order), device=order.device) - offsets[ids] < counts.to(ids)[ids]
    return keep
