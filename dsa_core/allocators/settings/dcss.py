"""Settings of DCSS."""

from itertools import pairwise
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class DCSSSettings(BaseModel):
    """How DCSS searches; everything here is open in the paper.

    Attributes:
        fractions: candidate keep counts of a group, as shares of its channels, rising, in (0, 1];
            rounded to whole channels that the budget allows, at least one. The last is 1, so that
            a group can stay whole.
        budget: "admm" lands on the budget in every update; "penalty" adds
            `penalty` * log F to the loss, in the manner of the paper, and knows no budget.
        penalty: lambda, in units of the loss: what a group must gain to be worth one log MAC.
        lr: step of the logits, > 0: a candidate that is better than the others of its group by
            their spread, and stays so, gains about this much on them in an update.
        averaging: memory of the mean gradient, in [0, 1).
        rms_averaging: memory of its root mean square, in [0, 1); no shorter than `averaging`'s.
        curvature: of the first logits, >= 0, see `dcss_tilt.bend`.
        firmness: pressure on every group to decide, >= 0, in units of the data's own, see
            `dcss_budget.ChoiceOptimizer`; 0 leaves groups undecided between extremes.
        temperature_first, temperature_last: of the softmax at the ends of the search, geometric in
            between; falling, so that every group decides.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fractions: tuple[float, ...] = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
    budget: Literal["admm", "penalty"] = "admm"
    penalty: float = Field(default=0.1, ge=0)
    lr: float = Field(default=0.1, gt=0)
    averaging: float = Field(default=0.97, ge=0, lt=1)
    rms_averaging: float = Field(default=0.99, ge=0, lt=1)
    curvature: float = Field(default=0.5, ge=0)
    firmness: float = Field(default=1.0, ge=0)
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
