"""How the choice of DCSS moves: the expected keep ratios, and the distribution around them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dsa_core.budget import (
    Priced,
    QuadraticForm,
    Residuals,
    metric,
    prices,
)
from dsa_core.errors import BudgetError
from dsa_core.methods.dcss_choice import Candidates, choice_probs
from dsa_core.methods.dcss_tilt import bell_logits, ratio_slope, tilt, variance_gradient

if TYPE_CHECKING:
    from dsa_core.methods.dcss import DCSS


class Penalised(Priced):
    """No budget: descends on L + lambda log F in log ratios, with the steps of `Priced`.

    Where `Priced` compares a group's price with the mean price and then shifts all groups onto the
    budget, this compares it with -lambda and does not shift. At rest every free group pays lambda
    per log MAC. The paper has lambda g(E[F]) and leaves g open; here g = log.
    """

    def __init__(
        self, cost: QuadraticForm, floors: Tensor, start: Tensor, settings: "DCSS"
    ) -> None:
        super().__init__(cost, floors=floors, start=start, settings=settings.ratios)
        self.penalty = settings.penalty

    def _price(self, gradient: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        w, price = metric(self.cost, alpha), -gradient.new_tensor(self.penalty)
        off = (w * (prices(gradient, self.cost, alpha) - price).square()).sum() / w.sum()
        return price, off.sqrt()

    def _land(self, wish: Tensor, budgets: float | Sequence[float]) -> dict[str, Tensor]:
        """Stay within the bounds; the budget is only reported against."""
        return {"z": wish.clamp(max=0.0).maximum(self.floors.log())}


class Choices:
    """The choice of every group, in two coordinates: expected keep ratio, and shape.

    Every choice pi of a group is the exponential tilt of its logits to its expected ratio alpha
    (`tilt`), so (alpha, shape) are coordinates of pi. One update:

        alpha   by an optimizer of keep ratios (`budget.Priced`, or `Penalised`), with the gradient
                dL/dalpha_k = Cov_pi(x, dL/dpi) / Var_pi(x) along the tilt (`ratio_slope`).
                The budget concerns alpha alone: F(alpha) = B, as in DSA, with the same ADMM.
        shape   a <- a - lr (d + firmness q), then tilted to the new alpha.

    d is the moving average of dL/dpi minus its mean over the group, divided by the group's root
    mean square. This is a step of mirror descent, pi <- argmin <d, pi> + KL(pi || pi_before) / lr.
    Unlike the gradient in the logits, pi (dL/dpi - mean), it also reaches candidates with hardly
    any probability left. The tilt removes whatever part of d is linear in x.

    *Every group must decide.* The relaxation alone does not make it: half of everything plus half
    of nothing is a mask of 1/2 on every channel, which counts as half the width, yet costs the
    network nothing, since the following weights compensate a factor. So q pushes a group
    towards its expected ratio: it is the gradient of the variance of its choice, scaled to mean
    square 1 (`variance_gradient`). d has a mean square of about 1 or less, so at a firmness well
    above 1 a group ends at its expected ratio, or on the two candidates next to it. Which of the
    two is settled by moving the expected ratios onto candidates, group by group (`_settle`).

    Deviations: the paper descends on the logits without saying how; pressure and settling are ours.
    """

    def __init__(self, ratios: Priced, candidates: Candidates, settings: "DCSS") -> None:
        self.ratios, self.candidates, self.settings = ratios, candidates, settings
        zeros = torch.zeros_like(candidates.ratios)
        self._state = {
            "logits": zeros,
            "temperature": torch.tensor(settings.temperature_first, dtype=torch.float64),
            "mean": zeros,
            "square": zeros.new_zeros(len(zeros)),
            "steps": torch.zeros((), dtype=torch.int64),
        }
        self._tilt(bell_logits(candidates, settings.curvature), settings.temperature_first)

    @property
    def pi(self) -> Tensor:
        """Probabilities of the candidates, shape (K, J), float64."""
        temperature = float(self._state["temperature"])
        return choice_probs(self._state["logits"], self.candidates, temperature)

    def step(
        self,
        gain: Tensor,
        budget: float,
        *,
        temperature: float,
        step_scale: float = 1.0,
        settled: int = 0,
    ) -> Residuals:
        """Make one update; returns the residuals of the keep ratios' optimizer.

        Args:
            gain: dL/dpi at `pi`, shape (K, J), finite.
            budget: B of this step, a ratio of the dense cost.
            temperature: of the softmax from now on.
            step_scale: factor of the data part of the step, >= 0; should decay to 0.
            settled: how many groups are to stand on a candidate.
        """
        slope = ratio_slope(gain, self.pi, self.candidates)
        if settled:
            self._settle(settled)
        residuals = self.ratios.step(slope, budget, step_scale=step_scale)
        moments = self._averages(self.candidates.centred(gain))
        spread = variance_gradient(self.candidates, self.ratios.keep_ratios)
        moved = step_scale * self._direction(moments) + self.settings.firmness * spread
        self._state |= moments
        self._tilt(self._state["logits"] - self.settings.lr * moved, temperature)
        return residuals

    def _settle(self, number: int) -> None:
        """Move the `number` groups nearest to a candidate onto it.

        The step then shifts all groups onto the budget. Moved before every step, these come back,
        and the others take up the difference.
        """
        x, alpha = self.candidates.ratios, self.ratios.keep_ratios
        distance, nearest = (x - alpha[:, None]).abs().min(1)
        groups = distance.argsort(stable=True)[:number]
        alpha[groups] = x[groups, nearest[groups]]
        self.ratios.move_to(alpha)

    def _tilt(self, logits: Tensor, temperature: float) -> None:
        alpha = self.ratios.keep_ratios
        self._state["logits"] = tilt(logits, self.candidates, alpha, temperature)
        self._state["temperature"] = torch.tensor(temperature, dtype=torch.float64)

    def _averages(self, centred: Tensor) -> dict[str, Tensor]:
        own, old = self.settings.ratios, self._state
        square = centred.square().sum(1) / self.candidates.valid.sum(1)
        return {
            "mean": own.averaging * old["mean"] + (1 - own.averaging) * centred,
            "square": own.rms_averaging * old["square"] + (1 - own.rms_averaging) * square,
            "steps": old["steps"] + 1,
        }

    def _direction(self, moments: Mapping[str, Tensor]) -> Tensor:
        """Return d, (K, J): bias-corrected mean over root mean square; 0 without a signal."""
        own, steps = self.settings.ratios, int(moments["steps"])
        mean = moments["mean"] / (1 - own.averaging**steps)
        rms = (moments["square"] / (1 - own.rms_averaging**steps)).sqrt()[:, None]
        return torch.where(rms > 0, mean / rms.clamp_min(1e-300), torch.zeros_like(mean))

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """What the next step depends on, besides cost, candidates and settings."""
        shape = {name: value.clone() for name, value in self._state.items()}
        return {"shape": shape, "ratios": self.ratios.state_dict()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Restore a saved state."""
        self._state = {name: state["shape"][name].clone() for name in self._state}
        self.ratios.load_state_dict(state["ratios"])


def make_choices(
    cost: QuadraticForm, candidates: Candidates, budget: float, settings: "DCSS"
) -> Choices:
    """Build the optimizer that the settings name, at the dense network.

    Raises:
        BudgetError: under "admm", the smallest candidates cost more than the budget.
    """
    floors, start = candidates.least, candidates.most
    if settings.budget == "penalty":
        return Choices(Penalised(cost, floors, start, settings), candidates, settings)
    lowest = float(cost(floors))
    if lowest > budget:
        raise BudgetError(
            f"budget: {budget:.6g} of the dense cost cannot be reached by any choice of candidates:"
            f" the smallest of every group together cost {lowest:.6g}. Ask for at least that, or"
            f" put a fraction below {settings.fractions[0]:g} first in the fractions of DCSS"
        )
    ratios = Priced(cost, floors=floors, start=start, settings=settings.ratios)
    return Choices(ratios, candidates, settings)
