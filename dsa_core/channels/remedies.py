"""What the exported graph does not say, and a trial cut found out (see `dsa_core.tracing`)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Width:
    """The length of an axis of a tensor, divided by a constant."""

    tensor: str
    axis: int
    divisor: int = 1


@dataclass(frozen=True)
class Remedies:
    """Decisions that make a graph agree with the network, as plain data.

    Attributes:
        turned: numbers of the views, counted through the graph, of which the code fixes the other
            number than tracing took it for (see `rules_reshape.reshape`).
        attributes: "module.attribute", a whole number -> what it stands for; `prune` sets it anew.
        frozen: group -> why all its channels stay.
    """

    turned: tuple[int, ...] = ()
    attributes: Mapping[str, Width] = field(default_factory=dict)
    frozen: Mapping[str, str] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """The same as lists and dicts, for JSON."""
        return {**asdict(self), "turned": list(self.turned)}

    @staticmethod
    def of(described: Mapping[str, Any] | None) -> "Remedies":
        """Read what `describe` gave; none from None."""
        if described is None:
            return Remedies()
        attributes = {name: Width(**width) for name, width in described["attributes"].items()}
        return Remedies(tuple(described["turned"]), attributes, dict(described["frozen"]))
