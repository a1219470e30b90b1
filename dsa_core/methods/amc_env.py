"""Pruning as a reinforcement-learning environment: one action per group, the reward at the end."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from dsa_core.budget import Budget, Cost
from dsa_core.channels import ChannelGraph
from dsa_core.errors import BudgetError
from dsa_core.surgery.reconstruct import at_layer
from dsa_core.training import device_of_model, mode

Observation = np.ndarray[Any, np.dtype[np.float32]]
ROUNDINGS = 1e-6  # of one unit of cost


@dataclass(frozen=True)
class Wall:
    """AMC's action bound: no action may put the budget out of reach.

    Attributes:
        cost, budget: of the network.
        least: smallest number of channels allowed in every group, int64, shape (K,).
    """

    cost: Cost
    budget: Budget
    least: Tensor

    @staticmethod
    def of(graph: ChannelGraph, budget: Budget, keep_least: float) -> "Wall":
        """Make the bound for a network; BudgetError if the smallest counts cost too much."""
        cost = budget.cost(graph)
        wanted = (keep_least * cost.sizes - 1e-9).ceil().long()
        least = budget.step_up(torch.maximum(wanted, budget.least_counts(cost)), cost.sizes)
        lowest = cost.at(least) / cost.dense
        if lowest > budget.ratio:
            raise BudgetError(
                f"{budget.resource}={budget.ratio:g} cannot be reached by AMC: keeping "
                f"keep_least={keep_least:g} of every group costs {lowest:.4f} of the dense "
                "network. Ask for more, or set a lower amc.keep_least"
            )
        return Wall(cost, budget, least)

    def allowed(self, k: int) -> list[int]:
        """The counts that group k may have, ascending."""
        size, least = int(self.cost.sizes[k]), int(self.least[k])
        return [*range(least, size, self.budget.divisor), size]

    def most(self, k: int, counts: Tensor) -> int:
        """The largest count of group k that keeps the budget within reach.

        Only the counts (K,) of the groups before k are read.
        """
        trial = torch.cat([counts[:k], self.least[k:]])
        choices, limit = self.allowed(k), self.budget.ratio * self.cost.dense + ROUNDINGS

        def cost(count: int) -> int:
            trial[k] = count
            return self.cost.at(trial)

        return choices[bisect_right(choices, limit, lo=1, key=cost) - 1]  # choices[0] fits

    def count(self, k: int, action: float, counts: Tensor) -> int:
        """The allowed count nearest to action * size."""
        size, most = int(self.cost.sizes[k]), self.most(k, counts)
        inside = [c for c in self.allowed(k) if c <= most]
        return min(inside, key=lambda c: (abs(c - action * size), c))


class PruningEnv(gymnasium.Env[Observation, Observation]):
    """One decision for each prunable group, in network order; one episode decides one network.

    The observation holds the features of He et al. for the first layer of the current group, each
    divided by its largest value: index, output and input channels, height and width of the input,
    stride, kernel, the group's cost, what earlier groups have saved, what this and later groups can
    still save, and the last action. The action is a keep ratio, clipped by `Wall`. The reward is 0
    until the last decision, and then that of the finished network. The paper gives the final reward
    to every decision of the episode; with its discount of 1 the best policy is the same.

    Args:
        reward: counts (K,) -> the reward.
        keep_least: smallest keep ratio.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        budget: Budget,
        reward: Callable[[Tensor], float],
        *,
        keep_least: float,
    ) -> None:
        self.wall = Wall.of(graph, budget, keep_least)
        self.reward, self.form, self.sizes = reward, self.wall.cost.relative, self.wall.cost.sizes
        self.table = layer_table(model, graph)
        n = self.table.shape[1] + 4  # three costs and the last action: see observation
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (n,), np.float32)
        self.action_space = gymnasium.spaces.Box(keep_least, 1.0, (1,), np.float32)
        self.reset()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start from the dense network; the environment itself is deterministic."""
        super().reset(seed=seed)
        self.group, self.last, self.counts = 0, 1.0, self.sizes.clone()
        return self.observation(), {}

    def step(self, action: Observation) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Decide on the current group."""
        k = self.group
        self.counts[k] = self.wall.count(k, float(action[0]), self.counts)
        self.group, self.last = k + 1, float(self.counts[k] / self.sizes[k])
        over = self.group == len(self.sizes)
        reward = self.reward(self.counts) if over else 0.0
        return self.observation(), reward, over, False, {}

    def observation(self) -> Observation:
        """The state before the decision on `group`; after the last, that of the last group."""
        row = self.table[min(self.group, len(self.sizes) - 1)]
        return np.array([*row.tolist(), *self.costs(), self.last], dtype=np.float32).clip(0, 1)

    def costs(self) -> tuple[float, float, float]:
        """Cost of the current group in the dense network; cost saved so far; cost still undecided.

        Each is a share of the dense cost. F is quadratic, so what a group costs depends on the
        others: each share is the difference of F with and without the group's channels.
        """
        alpha = self.counts / self.sizes
        here, before = torch.ones_like(alpha), alpha.clone()
        here[min(self.group, len(alpha) - 1)] = 0
        before[self.group :] = 0
        now = float(self.form(alpha))
        return 1 - float(self.form(here)), 1 - now, now - float(self.form(before))


def layer_table(model: nn.Module, graph: ChannelGraph) -> Tensor:
    """The constant features of the first layer of every group, (K, 7), scaled to at most 1.

    Index, output channels (of the group), input channels, height and width of the input, stride,
    kernel. A linear layer has height, width, stride and kernel 1.
    """
    layers = {layer.name: layer for layer in graph.layers}
    firsts = [layers[group.members[0]] for group in graph.prunable]
    zeros = torch.zeros(graph.input_shape, device=device_of_model(model))
    rows = []
    for k, (layer, group) in enumerate(zip(firsts, graph.prunable, strict=True)):
        module = model.get_submodule(layer.name)
        with mode(model, training=False), torch.no_grad():
            x, _ = at_layer(model, module, zeros)
        image = x.shape[2:] if hasattr(module, "kernel_size") else ()
        height, width = (*image, 1, 1)[:2]
        stride, kernel = first_of(module, "stride"), first_of(module, "kernel_size")
        read = layer.shape[layer.in_axis]
        rows.append([k + 1, group.size, read, height, width, stride, kernel])
    table = torch.tensor(rows, dtype=torch.float64)
    return table / table.amax(0)


def first_of(module: nn.Module, name: str) -> int:
    """The first entry of a convolution's tuple attribute; 1 for a module without it."""
    found = getattr(module, name, 1)
    return int(found[0] if isinstance(found, tuple) else found)
