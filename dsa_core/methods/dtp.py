"""Differentiable Transportation Pruning: trainable scores, masks by optimal transport."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from dsa_core.budget import Cost, sharpness_at, shift_to_budget, step_scale_at
from dsa_core.errors import BudgetError, nearest
from dsa_core.methods.dtp_counts import competing_counts, ranks
from dsa_core.methods.dtp_transport import Plan, proximal_step, transport_mask
from dsa_core.scheme import Figures, Method, Problem, Scheme

BASE_LR = 0.02  # what `score_lr` is a multiple of
MOMENTUM = 0.9


class DTP(Method):
    """Every channel has a score that trains with the weights.

    The masks solve a transport problem between the channels of a group and the two targets
    "dropped" and "kept"; what a group keeps, the scores decide between them under the budget
    (`competing_counts`), or the settings. The budget falls as in the other methods.

    Decided here, for the paper leaves it open: masks act at the consumers of a channel; scores
    start as the ranks of the importance; what groups keep relative to each other; the numbers
    below (on digits at 25 % of the MACs, two seeds, the cut network scores 97.2, 98.2, 98.5, 98.5 %
    at score_lr 0, 1, 5, 20; after fine-tuning there is no difference).

    Attributes:
        plan: "proximal": one Sinkhorn scaling of the proximal problem in every weight step, the
            paper's; the temperature falls by itself, as 1 / t. "closed": the entropic problem
            solved in closed form, its entropy falling by a schedule. A deviation: it is the
            default, because the network that is cut is then nearer to the one that was trained.
        eps_first, eps_last: weight of the entropy at the ends of the search, in the unit of scores
            squared. "closed" goes from the one to the other, geometrically. "proximal" uses
            `eps_last` times the number of steps as the weight of its proximal term, so that it
            arrives at `eps_last` too; after t steps it is at (steps / t) `eps_last`.
        score_lr: learning rate of the scores, in units of 0.02; it falls as a cosine (see
            `TransportScheme.step`).
        keep_ratios: name of a channel group (of a weight tensor, for single weights) -> its keep
            ratio, up to a common factor that the budget decides; "*" stands for all others. None:
            all scores of the network compete.

    Source: Li et al., DTP, ICCV 2023 (arXiv:2307.08483).
    """

    label: ClassVar[str] = "dtp"

    plan: Literal["closed", "proximal"] = "closed"
    eps_first: float = Field(default=0.5, gt=0)
    eps_last: float = Field(default=0.02, gt=0)
    score_lr: float = Field(default=5.0, ge=0)
    keep_ratios: dict[str, float] | None = None

    @field_validator("keep_ratios")
    @classmethod
    def _in_order(cls, ratios: dict[str, float] | None) -> dict[str, float] | None:
        for name, ratio in (ratios or {}).items():
            if not 0 < ratio <= 1:
                raise ValueError(f"the keep ratio of {name!r} must be in (0, 1], got {ratio}")
        return ratios and dict(sorted(ratios.items()))  # their order must not change the hash

    @model_validator(mode="after")
    def _falling(self) -> "DTP":
        if self.eps_first < self.eps_last:
            raise ValueError(
                f"eps_first={self.eps_first:g} is below eps_last={self.eps_last:g}: the entropy "
                "falls during the search"
            )
        return self

    def scheme(self, problem: Problem) -> "TransportScheme":
        """Scores of channels."""
        return TransportScheme(problem, self, problem.cost)


class TransportScheme(Scheme):
    """Scores train by SGD beside the weights, under the masks of a transport plan.

    Args:
        cost: in keep ratios of the groups of what has a score each.
    """

    def __init__(self, problem: Problem, method: DTP, cost: Cost) -> None:
        super().__init__(problem)
        self.method, self.form, self.sizes = method, cost.relative, cost.sizes
        ends = torch.cat([torch.zeros(1, dtype=torch.int64), cost.sizes.cumsum(0)])
        self.offsets = ends.to(problem.device)
        self.floors = problem.budget.least_counts(cost).double() / cost.sizes
        self.given = given_ratios(method.keep_ratios, cost.names)
        self.scores = torch.zeros(self.size, device=problem.device, requires_grad=True)
        self.sgd = torch.optim.SGD([self.scores], lr=BASE_LR, momentum=MOMENTUM, nesterov=True)
        self.plan = Plan.uniform(self.offsets)
        self.done = 0
        self.drawn: tuple[Tensor, Plan] | None = None  # a mask that asks for a gradient; next plan

    @property
    def size(self) -> int:
        """One score an entry."""
        return int(self.sizes.sum())

    def first_importance(self) -> Tensor:
        """What the scores start from the ranks of, shape (size,)."""
        return super().importance()

    def eps(self, step: int) -> float:
        """Weight of the entropy that the masks of a weight step are at."""
        done, total = self.problem.clock(step)
        if self.method.plan == "closed":
            return sharpness_at(done, total, first=self.method.eps_first, last=self.method.eps_last)
        return self.proximal_eps / min(done + 1, total)

    @property
    def proximal_eps(self) -> float:
        """Weight of the proximal term: after all steps the plan's entropy is `eps_last`."""
        return self.method.eps_last * self.problem.clock(0)[1]

    def kept(self, step: int) -> Tensor:
        """What every group keeps at a weight step, shape (G,), float64; differentiable."""
        wanted = self.problem.budget_at(step)
        if self.given is not None:
            log_ratios, _ = shift_to_budget(self.given.log(), self.form, wanted, self.floors)
            return (log_ratios.exp() * self.sizes).to(self.scores.device)
        form, eps = self.form, self.eps(step)
        return competing_counts(
            self.scores, self.offsets, form, wanted, eps=eps, floors=self.floors
        )

    def plan_masks(self, step: int) -> tuple[Tensor, Plan]:
        """Masks (size,) of a weight step, differentiable in the scores; the next plan.

        Proximal: the gradient is taken as if the scores had been what they are from the first step
        on (the paper does not say). Through the last of t scalings alone it would be t times
        smaller, and fade next to that of the weights.
        """
        k, done = self.kept(step), self.problem.clock(step)[0]
        if self.method.plan == "closed":
            return transport_mask(self.scores, k, self.offsets, eps=self.eps(step)), self.plan
        fixed = self.scores.detach()
        scores = fixed + (done + 1) * (self.scores - fixed)
        return proximal_step(scores, k, self.offsets, self.plan, eps=self.proximal_eps)

    def mask(self, step: int) -> Tensor:
        """The masks of the present scores; those start when the warm-up is over."""
        if step == self.problem.warmup:
            with torch.no_grad():
                self.scores.copy_(ranks(self.first_importance(), self.offsets))
        with torch.enable_grad():
            self.drawn = self.plan_masks(step)
        return self.drawn[0].detach()

    def step(self, step: int, gradient: Tensor, lr: float) -> Figures | None:
        """Move the scores, in every weight step.

        Their learning rate is score_lr * 0.02 * (1 + cos(pi s / S)) / 2 after s of S steps. A
        deviation: the paper trains scores and weights by one SGD; here the weights' may be any.
        """
        if self.drawn is None:
            return None
        mask, self.plan = self.drawn
        (self.scores.grad,) = torch.autograd.grad(mask, self.scores, gradient.to(mask))
        scale = step_scale_at(*self.problem.clock(step))
        self.sgd.param_groups[0]["lr"] = self.method.score_lr * BASE_LR * scale
        self.sgd.step()
        self.done, self.drawn = step + 1, None
        if not self.problem.due(step + 1):
            return None
        now = mask.detach().clamp_max(1.0)
        return {"eps": self.eps(step), "inexactness": float((now * (1 - now)).sum())}

    @property
    def unit_ratios(self) -> Tensor:
        """Keep ratios of what has a score, by group, float64, on the CPU."""
        with torch.no_grad():
            return self.kept(self.done).cpu() / self.sizes

    @property
    def keep_ratios(self) -> Tensor:
        """Those of the channels."""
        return self.unit_ratios

    def ranking(self) -> Tensor:
        """The order in which the next masks would keep, shape (size,); the greatest first."""
        scores = self.scores.detach()
        if self.method.plan == "closed":
            return scores.clone()
        return self.plan.log_odds + 2 * scores.double() / self.proximal_eps

    def importance(self, model: nn.Module | None = None) -> Tensor:
        """The masks' own order, not that of the weights."""
        return self.ranking()

    def notes(self) -> dict[str, Any]:
        """The kind of plan, and the entropy it ended at."""
        return {"plan": self.method.plan, "eps_last": self.method.eps_last}

    def state_dict(self) -> dict[str, Any]:
        """Scores, their SGD, and the plan."""
        return {
            "scores": self.scores.detach().clone(),
            "sgd": self.sgd.state_dict(),
            "log_odds": self.plan.log_odds.clone(),
            "log_scale": self.plan.log_scale.clone(),
            "done": self.done,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        with torch.no_grad():
            self.scores.copy_(state["scores"])
        self.sgd.load_state_dict(state["sgd"])
        device = self.scores.device
        self.plan = Plan(state["log_odds"].to(device), state["log_scale"].to(device))
        self.done, self.drawn = int(state["done"]), None


def given_ratios(ratios: Mapping[str, float] | None, names: tuple[str, ...]) -> Tensor | None:
    """Keep ratios of all groups from those that the settings name, float64, shape (G,)."""
    if ratios is None:
        return None
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
