"""Settings of DCSS."""

from itertools import pairwise
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from dsa_core.budget import PricedSettings


class DCSSSettings(BaseModel):
    """How DCSS searches; everything here is open in the paper.

    Attributes:
        fractions: candidate keep counts of a group, as shares of its channels, rising, in (0, 1];
            rounded to whole channels that the budget allows, at least one. The last is 1, so that
            a group can stay whole.
        budget: "admm" lands on the budget in every update; "penalty" adds
            `penalty` * log F to the loss, in the manner of the paper, and knows no budget.
        penalty: lambda, in units of the loss: what a group must gain to be worth one log MAC.
        ratios: of the optimiser of the expected keep ratios, see `admm.Priced`; its averages are
            also those of the logits' gradient.
        lr: step of the logits, > 0: a candidate that is better than the others of its group by
            their spread, and stays so, gains about this much on them in an update.
        curvature: of the first logits, >= 0, see `dcss_tilt.bend`.
        firmness: pressure on every group to decide, >= 0, in units of the data's own, see
            `dcss_budget.Choices`; 0 leaves groups undecided between extremes.
        temperature_first, temperature_last: of the softmax at the ends of the search, geometric in
            between; falling, so that every group decides.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fractions: tuple[float, ...] = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
    budget: Literal["admm", "penalty"] = "admm"
    penalty: float = Field(default=0.1, ge=0)
    ratios: PricedSettings = PricedSettings()
    lr: float = Field(default=0.1, gt=0)
    curvature: float = Field(default=0.5, ge=0)
    firmness: float = Field(default=2.0, ge=0)
    temperature_first: float = Field(default=1.0, gt=0)
    temperature_last: float = Field(default=0.1, gt=0)

    @field_validator("fractions")
    @classmethod
    def _rising(cls, fractions: tuple[float, ...]) -> tuple[float, ...]:
        if len(fractions) < 2 or fractions[0] <= 0 or fractions[-1] != 1:
            raise ValueError("wanted two or more fractions in (0, 1], the last of them 1")
        if any(a >= b for a, b in pairwise(fractions)):
            raise ValueError("wanted fractions that rise")
        return fractions
