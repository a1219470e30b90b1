"""What the exported graph does not say and a trial cut finds out (see `dsa_core.tracing`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

MAX_CHANNELS = 1 << 20  # of one group
Name = Annotated[str, Field(max_length=1_000)]
Whole = Annotated[int, Field(strict=True, ge=0, lt=MAX_CHANNELS)]


class Width(BaseModel):
    """The length of an axis of a tensor, divided by a constant; or the lengths of its pieces."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tensor: Name
    axis: int = Field(strict=True, ge=0, lt=8)
    divisor: int = Field(default=1, strict=True, ge=1, lt=MAX_CHANNELS)
    pieces: tuple[Whole, ...] = ()

    def of(self, stays: Tensor) -> int | list[int]:
        """The number or numbers for the positions of the axis that stay, bool."""
        if self.pieces:
            return [int(piece.sum()) for piece in stays.split(self.pieces)]
        return int(stays.sum()) // self.divisor


class Remedies(BaseModel):
    """Decisions that make a graph agree with the network; a saved network's file holds them.

    Attributes:
        turned: numbers of the views, once for each turn, of which the code fixes another
            number than tracing took it for (see `rules_reshape.reshape`).
        attributes: "module.attribute", a whole number, or a list or tuple of some -> what it stands
            for; `prune` updates it.
        frozen: group -> why all its channels stay.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    turned: tuple[Whole, ...] = ()
    attributes: dict[Name, Width] = {}
    frozen: dict[Name, str] = {}


@dataclass(frozen=True)
class Clues:
    """Where a remedy may be found: flat channels, -1 for those that stay.

    Attributes:
        views: of each view that cuts the channel axis in two, the channels on that axis.
        modules: path of a module -> the channels that its own operators handle.
    """

    views: tuple[Tensor, ...] = ()
    modules: Mapping[str, Tensor] = field(default_factory=dict)

    def moved(self, places: Tensor) -> "Clues":
        """The same with channels at new places, (n + 1,): old place -> new, -1 for the last."""
        modules = {path: places[channels] for path, channels in self.modules.items()}
        return Clues(tuple(places[view] for view in self.views), modules)
