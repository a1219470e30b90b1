"""The state of a search: what it saves and resumes from."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from dsa_core.allocation import Allocation, Update
from dsa_core.budget import Budget, Resource
from dsa_core.errors import ConfigError, differences
from dsa_core.scheme import Figures, Problem, Scheme

FORMAT = 1


class SearchState:
    """The state of a search.

    Attributes:
        steps_done: optimizer steps so far.
        history: every update of the keep ratios.
        restored: entries of the history that are not told: the first, and those of a loaded state.
        dense: weights and buffers at `Pruner.attach`.
    """

    def __init__(self, problem: Problem, scheme: Scheme) -> None:
        self.problem, self.scheme, self.graph = problem, scheme, problem.graph
        self.steps_done, self.last_held_out = 0, -1  # step of the last held-out batch
        self.dense: dict[str, Tensor] = {}
        self.history: list[Update] = []
        self.restored = 1
        self.note(0, {})

    @property
    def keep_ratios(self) -> dict[str, float]:
        """The current keep ratio of every group, by name."""
        names = (group.name for group in self.graph.prunable)
        return dict(zip(names, self.scheme.keep_ratios.tolist(), strict=True))

    @property
    def cost(self) -> dict[Resource, float]:
        """Cost of the current keep ratios relative to the dense network, by resource."""
        return self.scheme.costs

    @property
    def held_out_steps(self) -> int:
        """Number of held-out batches used so far."""
        return len(self.history) - 1 if self.scheme.held_out else 0

    @property
    def searching(self) -> bool:
        """Whether the warm-up is over."""
        return self.steps_done >= self.problem.warmup

    @property
    def wants_held_out(self) -> bool:
        """Whether the method waits for a held-out batch before the next step (`held_out_step`)."""
        return self.scheme.held_out and self.held_out_missing(self.steps_done)

    def __repr__(self) -> str:
        asked, p = self.problem.budget.ratios, self.problem
        costs = (f"{r} at {now:.1%}, asked {asked[r]:.1%}" for r, now in self.cost.items())
        return f"Pruner({p.method.label}: step {self.steps_done} of {p.steps}, {'; '.join(costs)})"

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on, besides the states of the network and the optimizer.

        Tensors, numbers and text only, so that `torch.load(weights_only=True)` reads it.
        """
        return {
            "format": FORMAT,
            "fingerprint": self.fingerprint(),
            "steps_done": self.steps_done,
            "last_held_out": self.last_held_out,
            "scheme": self.scheme.state_dict(),
            "history": [asdict(update) for update in self.history],
            "dense": self.dense,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a saved state, bit for bit if network and optimizer are restored as well.

        Raises:
            ConfigError: it belongs to another search; names the differences.
        """
        saved = state.get("fingerprint", {})
        if state.get("format") != FORMAT or not isinstance(saved, Mapping):
            raise ConfigError("load_state_dict: wanted what Pruner.state_dict() returned")
        if wrong := differences(saved, self.fingerprint()):
            raise ConfigError(f"load_state_dict: the state is of another search: {wrong}")
        self.steps_done, self.last_held_out = int(state["steps_done"]), int(state["last_held_out"])
        self.scheme.load_state_dict(state["scheme"])
        self.history = [Update(**update) for update in state["history"]]
        self.restored = len(self.history)
        device = self.problem.device
        self.dense = {k: v.to(device, copy=True) for k, v in state["dense"].items()}

    def fingerprint(self) -> dict[str, str]:
        """What a saved state must match."""
        p = self.problem
        return {
            "method": f"{p.method.label} {p.method.model_dump_json()}",
            "budget": repr(p.budget),
            "steps": f"{p.steps}, {p.warmup} of them warm-up",
            "mask seed": str(p.seed),
            "groups": " ".join(f"{g.name}:{g.size}" for g in self.graph.prunable),
        }

    def held_out_missing(self, step: int) -> bool:
        """Whether an update is due at a step and its held-out batch is missing."""
        return self.problem.due(step) and self.last_held_out != step

    def allocate(self, budget: Budget, b: Tensor) -> Allocation:
        """Which channels stay under a budget, by the current keep ratios.

        Importance `b`, shape (n,), ranks the channels of a group.
        """
        return Allocation(
            method=self.problem.method.label,
            graph=self.graph,
            budget=budget,
            keep_ratios=self.scheme.keep_ratios,
            importance=b.detach().cpu(),
            counts=self.scheme.counts(budget),
            updates=tuple(self.history),
            device=str(self.problem.device),
            notes=self.scheme.notes(),
            weight_mask=self.scheme.weight_mask(budget),
        )

    def note(self, done: int, figures: Figures) -> None:
        """Put the present keep ratios into the history, after `done` weight steps."""
        pairs = zip(self.scheme.costs.values(), self.problem.budgets_at(done), strict=True)
        cost, asked = max(pairs, key=lambda pair: pair[0] / pair[1])  # of the budget that binds
        update = Update(
            step=done,
            budget=asked,
            cost=cost,
            keep_ratios=tuple(self.scheme.keep_ratios.tolist()),
            figures=figures,
        )
        self.history.append(update)
