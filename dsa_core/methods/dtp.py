"""Differentiable Transportation Pruning: trainable scores, masks by optimal transport."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dsa_core.allocation import Allocation, Update
from dsa_core.budget import Budget, sharpness_at, shift_to_budget
from dsa_core.channels import ChannelGraph
from dsa_core.errors import BudgetError, nearest
from dsa_core.kernels.transport import Plan, proximal_step, transport_mask
from dsa_core.methods.config import OnStep, SearchConfig, SearchData
from dsa_core.methods.dtp_counts import competing_counts
from dsa_core.methods.dtp_units import Channels, Units, ranks
from dsa_core.methods.problem import Problem
from dsa_core.methods.scheme import Batches, Scheme
from dsa_core.methods.search import search
from dsa_core.methods.settings.dtp import DTPSettings
from dsa_core.training import Precision


class TransportScheme(Scheme):
    """Scores and weights train together by SGD, under the masks of a transport plan.

    Args:
        problem: what is searched.
        units: what has a score each; None for the channels.
    """

    def __init__(self, problem: Problem, units: Units | None = None) -> None:
        super().__init__(problem)
        self.settings = problem.config.dtp or DTPSettings()
        self.units = units or Channels(problem)
        self.offsets = self.units.offsets
        self.sizes = self.units.cost.sizes
        self.form = self.units.cost.relative
        self.given = given_ratios(self.settings.keep_ratios, self.units)
        self.scores = nn.Parameter(torch.zeros(int(self.sizes.sum()), device=problem.device))
        self.plan = Plan.uniform(self.offsets)
        self.step = problem.warmup
        self._now: tuple[Tensor, Tensor, Plan] | None = None  # counts, masks, next plan

    def parameters(self) -> list[dict[str, Any]]:
        """The scores: their own learning rate, no decay."""
        given = self.settings.score_lr
        factor = self.units.score_lr if given is None else given
        return [{"params": [self.scores], "weight_decay": 0.0, "lr_factor": factor}]

    def eps(self, step: int) -> float:
        """Weight of the entropy that the masks of a weight step are at."""
        (done, total), settings = self.problem.clock(step), self.settings
        if settings.plan == "closed":
            return sharpness_at(done, total, first=settings.eps_first, last=settings.eps_last)
        return self.proximal_eps / (done + 1)

    @property
    def proximal_eps(self) -> float:
        """Weight of the proximal term: after all steps the plan's entropy is `eps_last`."""
        return self.settings.eps_last * self.problem.clock(0)[1]

    def kept(self, step: int) -> Tensor:
        """What every group keeps at a weight step, shape (G,), float64; differentiable."""
        wanted = self.problem.budget_at(step)
        if self.given is not None:
            log_ratios, _ = shift_to_budget(self.given.log(), self.form, wanted, self.units.floors)
            return (log_ratios.exp() * self.sizes).to(self.scores.device)
        return competing_counts(
            self.scores,
            self.offsets,
            self.form,
            wanted,
            eps=self.eps(step),
            floors=self.units.floors,
        )

    def masks(self, step: int) -> tuple[Tensor, Tensor, Plan]:
        """Counts (G,) and masks (n,) of a weight step, differentiable in the scores; the next plan.

        Proximal: the gradient is taken as if the scores had been what they are from the first step
        on (the paper does not say). Through the last of t scalings alone it would be t times
        smaller, and fade next to that of the weights.
        """
        if self._now is None or step != self.step:
            k, done = self.kept(step), self.problem.clock(step)[0]
            if self.settings.plan == "closed":
                plan = self.plan
                mask = transport_mask(self.scores, k, self.offsets, eps=self.eps(step))
            else:
                fixed = self.scores.detach()
                scores, eps = fixed + (done + 1) * (self.scores - fixed), self.proximal_eps
                mask, plan = proximal_step(scores, k, self.offsets, self.plan, eps=eps)
            self.step, self._now = step, (k, mask, plan)
        return self._now

    def update(self, step: int, batches: Batches, precision: Precision) -> Update:
        """Look at the keep ratios: they move with the scores, in every weight step."""
        if step == self.problem.warmup:
            with torch.no_grad():
                self.scores.copy_(ranks(self.units.importance(), self.offsets))
        self.check(f"a score before step {step}", self.scores)
        k, soft, _ = self.masks(step)
        mask, alpha = soft.detach().clamp_max(1.0), k.detach().cpu() / self.sizes
        return Update(
            step=step,
            budget=self.problem.budget_at(step),
            cost=float(self.form(alpha)),
            sharpness=2 / self.eps(step),
            inexactness=float((mask * (1 - mask)).sum()),
            loss=torch.nan,
            price=torch.nan,
            price_spread=torch.nan,
            primal=0.0,
            dual=0.0,
            keep_ratios=tuple(self.keep_ratios.tolist()),
        )

    def weights(self, step: int, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parameters under the masks; the plan goes one step on."""
        _, mask, self.plan = self.masks(step)
        self._now = None
        return self.units.masked(parameters, mask)

    @property
    def ratios(self) -> Tensor:
        """Keep ratios of the groups of units, float64, on the CPU."""
        if self._now is not None:
            return self._now[0].detach().cpu() / self.sizes
        with torch.no_grad():
            return self.kept(self.step).cpu() / self.sizes

    @property
    def keep_ratios(self) -> Tensor:
        """Those of the channels."""
        return self.ratios

    def ranking(self) -> Tensor:
        """What ranks the units of a group as their next masks would, shape (n,)."""
        scores = self.scores.detach()
        if self.settings.plan == "closed":
            return scores
        return self.plan.log_odds + 2 * scores.double() / self.proximal_eps

    def importance(self) -> Tensor:
        """The masks' own order, not that of the weights."""
        return self.ranking()

    def notes(self) -> dict[str, Any]:
        """The kind of plan, and the entropy it ended at."""
        return {"plan": self.settings.plan, "eps_last": self.settings.eps_last}

    def state_dict(self) -> dict[str, Any]:
        """Scores, plan, and the last step."""
        return {
            "scores": self.scores.detach().clone(),
            "log_odds": self.plan.log_odds.clone(),
            "log_scale": self.plan.log_scale.clone(),
            "step": self.step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them over."""
        with torch.no_grad():
            self.scores.copy_(state["scores"])
        device = self.scores.device
        self.plan = Plan(state["log_odds"].to(device), state["log_scale"].to(device))
        self.step, self._now = int(state["step"]), None


def given_ratios(ratios: Mapping[str, float] | None, units: Units) -> Tensor | None:
    """Keep ratios of all groups from those that the settings name, float64, shape (G,)."""
    if ratios is None:
        return None
    names = units.cost.names
    unknown = sorted(set(ratios) - set(names) - {"*"})
    if unknown:
        raise BudgetError(
            f"keep_ratios: no group is named {unknown[0]!r}{nearest(unknown[0], names)}"
        )
    missing = [name for name in names if name not in ratios]
    if missing and "*" not in ratios:
        raise BudgetError(
            f"keep_ratios: nothing is said of {missing[:6]}: name them, or '*' for all others"
        )
    return torch.tensor([ratios.get(n, ratios.get("*")) for n in names], dtype=torch.float64)


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
    """Search which channels stay by DTP: every channel has a score that trains with the weights.

    The masks solve a transport problem between the channels of a group and the two targets
    "dropped" and "kept"; what a group keeps, the scores decide between them under the budget
    (`competing_counts`), or the settings. The budget falls as in the other methods. All training is
    on `data.weights`; `data.ratios` is not read.

    Decided here, for the paper leaves it open: masks act at the consumers of a channel; scores
    start as the ranks of the trained importance; what groups keep relative to each other; the
    entropies and learning rates of `DTPSettings`.

    Args:
        model: dense network on its device; it is trained in place.
        graph: of the model.
        budget: to reach, of MACs or of parameters.
        data: batches for weights and scores.
        config: how to search; `config.dtp` is the method's own.
        seed: of the order of the batches; the masks draw nothing.
        on_step: called with every look at the keep ratios; True ends the search at once.

    Source: Li et al., DTP, ICCV 2023 (arXiv:2307.08483).
    """
    problem = Problem("dtp", model, graph, budget, data, config, seed)
    return search(problem, TransportScheme(problem), on_step)
