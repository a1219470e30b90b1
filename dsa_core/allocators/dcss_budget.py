"""How the logits of DCSS move: downhill on the loss, and back to the budget by a tilt."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from dsa_core.admm import Residuals, metric, shift_to_budget
from dsa_core.allocators.dcss_choice import Candidates, choice_probs, expected_ratios
from dsa_core.allocators.dcss_tilt import EDGE, bend, far, multiplier, tilt
from dsa_core.allocators.settings.dcss import DCSSSettings
from dsa_core.cost import QuadraticForm
from dsa_core.errors import BudgetError

START = 0.95  # of the way from the least to the dense network: every candidate is in reach


class ChoiceOptimizer(ABC):
    """Moves the logits of K groups against a stochastic gradient.

    One step, in the geometry of the choice, where the length of a step is a Kullback-Leibler
    distance (mirror descent, or multiplicative weights):

        pi <- argmin_pi  <d, pi> + KL(pi || pi_before) / lr       that is   a <- a - lr d

    with d_kj the moving average of D_kj (less the mean over the group) over the root mean square of
    the group's: each group by its own scale, so that no noisy group silences the others. D is the
    gradient of the loss with what the cost adds to it; at an optimum it is 0 where pi is not, so
    that neither average nor scale moves the optimum. Unlike the gradient in the logits, pi (D -
    mean D), it also reaches candidates that have hardly any probability left.

    *Every group must decide.* The relaxation alone does not ask for it, on the contrary: half of
    all and half of nothing is a mask of 1/2 on every channel. It counts as half the width, yet the
    network loses nothing, since the weights that follow make up for a factor (seen on digits: at
    half of the MACs five of six groups mixed their smallest candidate with their largest). So each
    step also presses a group towards its expected ratio, a <- a - lr firmness q, with q the
    gradient of the variance of its choice, in unit mean square (`far`), and the tilt that follows
    takes out again what this does to the expected ratio. The data's own part d has a mean square
    of 1 or less, so that at firmness 1 or more a group ends at its expected ratio, or beside it.

    Deviations: the paper states gradient descent, without its form; the pressure is ours.
    """

    def __init__(self, cost: QuadraticForm, candidates: Candidates, settings: DCSSSettings) -> None:
        self.cost, self.candidates, self.settings = cost, candidates, settings
        zeros = torch.zeros_like(candidates.ratios)
        start = candidates.least + START * (candidates.most - candidates.least)
        bent = bend(candidates, settings.curvature)
        self._state = {
            "logits": tilt(bent, candidates, start, settings.temperature_first),
            "temperature": torch.tensor(settings.temperature_first, dtype=torch.float64),
            "mean": zeros,
            "square": zeros.new_zeros(len(zeros)),
            "steps": torch.zeros((), dtype=torch.int64),
        }

    @property
    def pi(self) -> Tensor:
        """Probabilities of the candidates, shape (K, J), float64."""
        temperature = float(self._state["temperature"])
        return choice_probs(self._state["logits"], self.candidates, temperature)

    @property
    def keep_ratios(self) -> Tensor:
        """Expected keep ratios, shape (K,), float64."""
        return expected_ratios(self.pi, self.candidates)

    def step(
        self, gain: Tensor, budget: float, *, temperature: float, step_scale: float = 1.0
    ) -> Residuals:
        """Make one update.

        Args:
            gain: dL/dpi at `pi`, shape (K, J), finite.
            budget: B of this step, a ratio of the dense cost.
            temperature: of the softmax from now on.
            step_scale: factor of the step length, >= 0; let it fall to 0.

        Returns:
            Residuals as of `admm.Priced`: of log ratios, in the metric of the cost.
        """
        pi, alpha, x = self.pi, self.keep_ratios, self.candidates.ratios
        slope = self.cost.gradient(alpha)
        found, spread = multiplier(gain, slope, pi, x)
        excess = gain + self._worth(found, alpha) * slope[:, None] * x
        moments = self._averages(self.candidates.centred(excess))
        d = step_scale * self._direction(moments)
        wish = self._state["logits"] - self.settings.lr * d
        wished = expected_ratios(choice_probs(wish, self.candidates, temperature), self.candidates)
        pressed = wish - self.settings.lr * self.settings.firmness * far(self.candidates, alpha)
        logits = tilt(pressed, self.candidates, self._land(wished, budget), temperature)
        at = torch.tensor(temperature, dtype=torch.float64)
        self._state = {**moments, "logits": logits, "temperature": at}
        return self._residuals(alpha, wished, budget, float(found), float(spread))

    @abstractmethod
    def _worth(self, found: Tensor, alpha: Tensor) -> Tensor:
        """The multiplier to step with, shape (); `found` is that of an optimum on the budget."""

    @abstractmethod
    def _land(self, wished: Tensor, budget: float) -> Tensor:
        """The expected ratios to go on with, shape (K,), after a step to `wished`."""

    def _averages(self, excess: Tensor) -> dict[str, Tensor]:
        a, b, old = self.settings.averaging, self.settings.rms_averaging, self._state
        square = excess.square().sum(1) / self.candidates.valid.sum(1)
        return {
            "mean": a * old["mean"] + (1 - a) * excess,
            "square": b * old["square"] + (1 - b) * square,
            "steps": old["steps"] + 1,
        }

    def _direction(self, moments: dict[str, Tensor]) -> Tensor:
        """Return d, (K, J): bias-corrected mean over root mean square; 0 without a signal."""
        steps = int(moments["steps"])
        mean = moments["mean"] / (1 - self.settings.averaging**steps)
        rms = (moments["square"] / (1 - self.settings.rms_averaging**steps)).sqrt()[:, None]
        return torch.where(rms > 0, mean / rms.clamp_min(1e-300), torch.zeros_like(mean))

    def _residuals(
        self, before: Tensor, wished: Tensor, budget: float, found: float, spread: float
    ) -> Residuals:
        alpha, low, high = self.keep_ratios, self.candidates.least, self.candidates.most
        w, cost = metric(self.cost, alpha), float(self.cost(alpha))
        edge = 2 * EDGE * (high - low)
        scale = float(self.cost(before))
        return Residuals(
            primal=float((w * (wished / alpha).log().square()).sum().sqrt()),
            dual=float((w * (alpha / before).log().square()).sum().sqrt()) / self.settings.lr,
            budget=cost - budget,
            price=-found * scale,
            price_spread=spread * scale,
            clipped=int(((alpha <= low + edge) | (alpha >= high - edge)).sum()),
        )

    def state_dict(self) -> dict[str, Tensor]:
        """All that the next step depends on, besides cost, candidates and settings."""
        return {name: value.clone() for name, value in self._state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a saved state."""
        self._state = {name: state[name].clone() for name in self._state}


class OnBudget(ChoiceOptimizer):
    """ADMM as in `admm.Priced`, with a choice in place of a ratio:

        min L(pi)   s.t.   F(alpha(pi)) = B

        wish       a <- a - lr d                                  the step of `ChoiceOptimizer`
        allowance  z <- clip(log alpha(a) - c),  F(exp z) = B     one shift, `shift_to_budget`
        choice     a <- tilt of a with alpha(a) = exp z           `tilt`, KL-nearest
        dual       what the tilt took away, as in `Priced`: it is not added up, since the next wish
                   starts from the allowance

    Hence the budget is met in every update, from above and from below, and with no signal from the
    data the expected ratios are the uniform ones.
    """

    def _worth(self, found: Tensor, alpha: Tensor) -> Tensor:
        return found

    def _land(self, wished: Tensor, budget: float) -> Tensor:
        return shift_to_budget(wished.log(), self.cost, budget, self.candidates.least)[0].exp()


class Penalised(ChoiceOptimizer):
    """The loss is L + lambda g(F), with a lambda that is given: the paper's kind of budget.

    Open in the paper, decided here: g = log, so that lambda is the price of a log MAC at which the
    search comes to rest, whatever the cost is then. Where that is nobody knows beforehand.
    """

    def _worth(self, found: Tensor, alpha: Tensor) -> Tensor:
        return self.settings.penalty / self.cost(alpha)

    def _land(self, wished: Tensor, budget: float) -> Tensor:
        return wished


def make_choices(
    cost: QuadraticForm, candidates: Candidates, budget: float, settings: DCSSSettings
) -> ChoiceOptimizer:
    """Build the optimiser that the settings name.

    Raises:
        BudgetError: the smallest candidates cost more than the budget.
    """
    if settings.budget == "penalty":
        return Penalised(cost, candidates, settings)
    lowest = float(cost(candidates.least))
    if lowest > budget:
        raise BudgetError(
            f"budget: {budget:.6g} of the dense cost cannot be reached by any choice of candidates:"
            f" the smallest of every group together cost {lowest:.6g}. Ask for at least that, or"
            f" put a fraction below {settings.fractions[0]:g} first in the fractions of DCSS"
        )
    return OnBudget(cost, candidates, settings)
