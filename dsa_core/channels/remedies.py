"""What the exported graph does not say and a trial cut finds out (see `dsa_core.tracing`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated

import torch
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
    """Where a remedy may be found.

    Attributes:
        views: of each view that cuts the channel axis in two, the ids on that axis.
        seen: path of a module -> the ids that its own operators handle.
        places: id -> place in the flat vector of prunable channels, -1 where the channel stays.
    """

    views: tuple[Tensor, ...] = ()
    seen: Mapping[str, list[Tensor]] = field(default_factory=dict)
    places: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    def on_view(self, view: int) -> Tensor:
        """The flat channels on the axis that a view cuts."""
        return self.places[self.views[view]]

    @cached_property
    def modules(self) -> dict[str, Tensor]:
        """The distinct flat channels of every module that handles ids."""
        lines = {path: [ids.flatten() for ids in listed] for path, listed in self.seen.items()}
        return {p: self.places[torch.cat(ids)].unique() for p, ids in lines.items() if ids}

    def moved(self, places: Tensor) -> "Clues":
        """The same with channels at new places, (n + 1,): old place -> new, -1 for the last."""
        return replace(self, places=places[self.places])
