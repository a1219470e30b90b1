"""Settings of DTP."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class DTPSettings(BaseModel):
    """How DTP searches; the paper gives no numbers for any of these.

    Tried on digits at 25 % of the MACs (preset quick, seeds 10 and 11), accuracy of the cut network
    before fine-tuning: closed 97.2, 98.2, 98.5, 98.5 % at score_lr 0, 1, 5, 20; proximal 96.4,
    95.8, 96.8 % at 0.3, 1, 5. After fine-tuning all lie between 98.6 and 99.4 %, in their noise.

    Attributes:
        plan: "proximal": one Sinkhorn scaling of the proximal problem in every weight step, the
            paper's; the temperature falls by itself, as 1 / t. "closed": the entropic problem
            solved in closed form, its entropy falling by a schedule. A deviation: it is the
            default, because the network that is cut is then nearer to the one that was trained.
        eps_first, eps_last: weight of the entropy at the ends of the search, in the unit of scores
            squared. "closed" goes from the one to the other, geometrically. "proximal" uses
            `eps_last` times the number of steps as the weight of its proximal term, so that it
            arrives at `eps_last` too; after t steps it is at (steps / t) `eps_last`.
        score_lr: learning rate of the scores, as a multiple of the weights'; None: 5 for channels,
            100 for single weights, each of which gets a far smaller gradient (of 3 % of the
            parameters 0, 100, 1000 gave 14.6, 97.8, 96.9 % before fine-tuning, as above).
        keep_ratios: name of a channel group (of a weight tensor, for single weights) -> its keep
            ratio, up to a common factor that the budget decides; "*" stands for all others. None:
            all scores of the network compete.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: Literal["closed", "proximal"] = "closed"
    eps_first: float = Field(default=0.5, gt=0)
    eps_last: float = Field(default=0.02, gt=0)
    score_lr: float | None = Field(default=None, ge=0)
    keep_ratios: dict[str, float] | None = None

    @field_validator("keep_ratios")
    @classmethod
    def _in_order(cls, ratios: dict[str, float] | None) -> dict[str, float] | None:
        for name, ratio in (ratios or {}).items():
            if not 0 < ratio <= 1:
                raise ValueError(f"the keep ratio of {name!r} must be in (0, 1], got {ratio}")
        return ratios and dict(sorted(ratios.items()))  # their order must not change the hash

    @model_validator(mode="after")
    def _falling(self) -> "DTPSettings":
        if self.eps_first < self.eps_last:
            raise ValueError(
                f"eps_first={self.eps_first:g} is below eps_last={self.eps_last:g}: the entropy "
                "falls during the search"
            )
        return self
