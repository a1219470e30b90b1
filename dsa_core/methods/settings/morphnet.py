"""Settings of MorphNet."""

from pydantic import Field

from dsa_core.methods.settings.bracket import BracketSettings


class MorphNetSettings(BracketSettings):
    """How MorphNet searches.

    Attributes:
        truncate: a channel is alive while |gamma| is above this.
    """

    truncate: float = Field(default=1e-3, gt=0)
