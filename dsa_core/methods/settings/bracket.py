"""Settings of the search for a penalty's strength."""

from pydantic import BaseModel, ConfigDict, Field


class BracketSettings(BaseModel):
    """How a penalty's strength is searched; each trial is a whole training.

    Attributes:
        strength: of the first trial; 1 is the guess that the penalty, were there no loss, would
            just empty the average channel by the end of the training.
        factor: from one trial to the next, until the budget lies between two.
        tolerance: a trial hits if its cost is at most the budget and at least (1 - tolerance)
            times it.
        max_trials: give up after so many.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    strength: float = Field(default=1.0, gt=0)
    factor: float = Field(default=2.0, gt=1)
    tolerance: float = Field(default=0.02, ge=0, lt=1)
    max_trials: int = Field(default=6, ge=1)
