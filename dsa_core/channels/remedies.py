"""What the exported graph does not say and a trial cut finds out (see `dsa_core.tracing`)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Width:
    """The length of an axis of a tensor, divided by a constant; or the lengths of its pieces."""

    tensor: str
    axis: int
    divisor: int = 1
    pieces: tuple[int, ...] = ()

    def of(self, stays: Tensor) -> int | list[int]:
        """The number or numbers for the positions of the axis that stay, bool."""
        if self.pieces:
            return [int(piece.sum()) for piece in stays.split(self.pieces)]
        return int(stays.sum()) // self.divisor


@dataclass(frozen=True)
class Remedies:
    """Decisions that make a graph agree with the network, as plain data.

    Attributes:
        turned: numbers of the views, once for each turn, of which the code fixes another
            number than tracing took it for (see `rules_reshape.reshape`).
        attributes: "module.attribute", a whole number, or a list or tuple of some -> what it stands
            for; `prune` sets it anew.
        frozen: group -> why all its channels stay.
    """

    turned: tuple[int, ...] = ()
    attributes: Mapping[str, Width] = field(default_factory=dict)
    frozen: Mapping[str, str] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """The same as lists and dicts, for JSON."""
        attributes = {
            n: {**asdict(w), "pieces": list(w.pieces)} for n, w in self.attributes.items()
        }
        return {**asdict(self), "turned": list(self.turned), "attributes": attributes}

    @staticmethod
    def of(described: Mapping[str, Any] | None) -> "Remedies":
        """Read what `describe` gave; none from None."""
        if described is None:
            return Remedies()
        attributes = {
            name: Width(**{**width, "pieces": tuple(width["pieces"])})
            for name, width in described["attributes"].items()
        }
        return Remedies(tuple(described["turned"]), attributes, dict(described["frozen"]))


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
