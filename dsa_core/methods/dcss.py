"""Differentiable channel sparsity search: every group chooses among candidate keep counts."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dsa_core.allocation import Allocation, Update
from dsa_core.budget import Budget, Residuals, round_to_channels, sharpness_at, step_scale_at
from dsa_core.channels import ChannelGraph
from dsa_core.masks import masked_parameters
from dsa_core.methods.config import OnStep, SearchConfig, SearchData
from dsa_core.methods.dcss_budget import make_choices
from dsa_core.methods.dcss_choice import candidates_of, channel_ranks, entropy, staircase
from dsa_core.methods.gradient import masked_loss
from dsa_core.methods.problem import Problem
from dsa_core.methods.scheme import Batches, Scheme
from dsa_core.methods.search import search
from dsa_core.methods.settings.dcss import DCSSSettings
from dsa_core.training import Precision, average


class ChoiceScheme(Scheme):
    """Weights train under the aggregated mask; the choice moves by `Choices`.

    First order, as in DARTS: the gradient of the logits is that of the validation loss at the
    present weights. The ranking of the channels is renewed at every update, and holds until the
    next (open in the paper).

    Args:
        problem: what is searched.
        settings: of DCSS.
    """

    def __init__(self, problem: Problem, settings: DCSSSettings) -> None:
        super().__init__(problem)
        self.settings = settings
        self.candidates = candidates_of(problem.cost, problem.budget, settings.fractions)
        ratio = problem.budget.ratio
        self.choices = make_choices(problem.form, self.candidates, ratio, settings)
        sizes = problem.graph.sizes
        self.groups = torch.repeat_interleave(torch.arange(len(sizes)), sizes).to(problem.device)
        self.counts_here = self.candidates.counts.to(problem.device)
        self.ranks = torch.zeros_like(self.groups)

    @property
    def keep_ratios(self) -> Tensor:
        """Expected keep ratios."""
        return self.choices.ratios.keep_ratios

    def temperature(self, step: int) -> float:
        """That of the softmax after the update at this weight step."""
        first, last = self.settings.temperature_first, self.settings.temperature_last
        return sharpness_at(*self.problem.clock(step), first=first, last=last)

    def update(self, step: int, batches: Batches, precision: Precision) -> Update:
        """Move the logits once."""
        self.ranks = channel_ranks(self.importance(), self.problem.graph)
        gain, loss = self._gain(next(batches), precision)
        self.check(f"the validation loss before step {step}", loss)
        self.check(f"the gradient of the candidates before step {step}", gain)
        wanted, temperature = self.problem.budget_at(step), self.temperature(step)
        scale = step_scale_at(*self.problem.clock(step))
        residuals = self.choices.step(gain, wanted, temperature=temperature, step_scale=scale)
        return self._record(step, wanted, float(loss), residuals)

    def _gain(self, batch: tuple[Tensor, Tensor], precision: Precision) -> tuple[Tensor, Tensor]:
        """The slope dL/dpi on one batch, (K, J), float64, on the CPU; and the loss, ().

        Both are averaged over the processes of a team, like the keep ratios' gradient of DSA.
        """
        problem, device = self.problem, self.problem.device
        pi = self.choices.pi.to(device, torch.float32).requires_grad_()
        mask = staircase(pi, self.counts_here, self.ranks, self.groups)
        here = (batch[0].to(device), batch[1].to(device))
        task, model, graph = problem.data.task, problem.model, problem.graph
        loss = masked_loss(model, graph, mask, here, task=task, precision=precision)
        (gain,) = torch.autograd.grad(loss, pi)
        loss = loss.detach()
        average([gain, loss])
        return gain.cpu().double(), loss

    def _record(self, step: int, wanted: float, loss: float, residuals: Residuals) -> Update:
        mask, alpha = self.mask(), self.keep_ratios
        return Update(
            step=step,
            budget=wanted,
            cost=float(self.problem.form(alpha)),
            sharpness=1 / self.temperature(step),
            inexactness=float((mask * (1 - mask)).sum()),
            loss=loss,
            price=residuals.price,
            price_spread=residuals.price_spread,
            primal=residuals.primal,
            dual=residuals.dual,
            keep_ratios=tuple(alpha.tolist()),
        )

    def mask(self) -> Tensor:
        """The aggregated mask of the present choice, shape (n,), float32, on the device."""
        pi = self.choices.pi.to(self.problem.device, torch.float32)
        return staircase(pi, self.counts_here, self.ranks, self.groups)

    def weights(self, step: int, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parameters under the aggregated mask: nothing is sampled."""
        return masked_parameters(parameters, self.problem.graph, self.mask())

    def chosen(self) -> Tensor:
        """The likeliest candidate of every group, int64, shape (K,); of equals the smallest."""
        best = self.choices.pi.argmax(1, keepdim=True)
        return self.candidates.counts.gather(1, best)[:, 0]

    def counts(self) -> Tensor:
        """The likeliest candidates; under "admm" repaired to the budget.

        The likeliest need not cost what was expected. Under "admm" `round_to_channels` takes from
        every group alike until the budget holds, and spends what is left. Under "penalty" they
        stay as they are: the budget may be missed.
        """
        chosen, problem = self.chosen(), self.problem
        if self.settings.budget == "penalty":
            return chosen
        ratios = chosen.double() / problem.cost.sizes
        return round_to_channels(ratios, problem.cost, problem.budget)

    def notes(self) -> dict[str, Any]:
        """What the choice was, how firm it was, and how much the repair has moved."""
        chosen, cost = self.chosen(), self.problem.cost
        return {
            "dcss_budget": self.settings.budget,
            "dcss_chosen": " ".join(map(str, chosen.tolist())),
            "dcss_chosen_cost_ratio": cost.at(chosen) / cost.dense,
            "dcss_channels_moved": int((self.counts() - chosen).abs().sum()),
            "dcss_entropy_nats": float(entropy(self.choices.pi).mean()),
        }

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's, and the ranking of the channels."""
        return {"choices": self.choices.state_dict(), "ranks": self.ranks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Into the optimiser and the ranking."""
        self.choices.load_state_dict(state["choices"])
        self.ranks = state["ranks"].to(self.groups)


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
    """Search keep counts by DCSS, from random weights (with a warm-up) or from a trained network.

    Every group has candidate keep counts with logits; a softmax mixes them. Since the candidates
    are nested, the mixture is one network under one mask, the `staircase`. Logits descend on
    `data.ratios`, weights on `data.weights`, in turn; at the end the likeliest candidates stay.
    The cost is the quadratic form at the expected keep ratios; that is E[F] of independent choices
    but for the variance of a group that reads itself, sum_k Q_kk Var(alpha_k) >= 0, which goes to 0
    as the groups decide.

    Deviations from the paper, which leaves its budget, candidates, ranking and schedules open:
    masks act at the consumers of a channel, not on the filters that make it (`masks`); the budget
    is met by ADMM on the expected ratios, unless `dcss.budget="penalty"`; how the logits move, and
    that they are pressed to decide, stands in `dcss_budget.Choices`. What `config` says of
    optimizer, estimator and sharpness of keep probabilities has no meaning here.

    Args:
        model: dense network on its device; it is trained in place.
        graph: of the model.
        budget: to reach.
        data: batches for the weights and for the logits.
        config: how to search; `config.dcss` is DCSS's own.
        seed: of what the network itself draws, such as dropout; DCSS draws nothing.
        on_step: called with every update of the logits; True ends the search at once.

    Source: Zhao and Lee, DCSS: differentiable channel sparsity search via weight sharing within
        filters (arXiv:2010.14714).
    """
    problem = Problem("dcss", model, graph, budget, data, config, seed)
    return search(problem, ChoiceScheme(problem, config.dcss or DCSSSettings()), on_step)
