"""Settings of SSL."""

from typing import Literal

from pydantic import Field

from dsa_core.methods.settings.bracket import BracketSettings

Members = Literal["filters", "makers", "all"]


class SSLSettings(BracketSettings):
    """How SSL searches.

    Attributes:
        members: which weights of a channel make its penalised group. "filters": one filter of every
            layer that makes it; "makers": with BatchNorm's scale and shift of it, without which the
            penalty is idle, since BatchNorm undoes any scale of a filter; "all": with the weights
            that read it.
        truncate: a channel is removed whose root-mean-square weight is below this.
    """

    members: Members = "makers"
    truncate: float = Field(default=1e-3, gt=0)
