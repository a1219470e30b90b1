"""Wall-clock and CPU time."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict


class Spent(TypedDict):
    """Time spent on some work."""

    seconds: float
    processor_seconds: float


@dataclass(frozen=True)
class Stopwatch:
    """A stopwatch that starts when it is created.

    Attributes:
        seconds: wall-clock time at the start, from some origin.
        processor: CPU seconds of all threads of this process at the start.
    """

    seconds: float = field(default_factory=time.perf_counter)
    processor: float = field(default_factory=time.process_time)

    def read(self) -> dict[str, float]:
        """Wall-clock "seconds" since the start, and "processor_seconds", of all threads."""
        return {
            "seconds": time.perf_counter() - self.seconds,
            "processor_seconds": time.process_time() - self.processor,
        }


def total_time(parts: Iterable[Mapping[str, Any]]) -> Spent:
    """Sums of "seconds" and "processor_seconds"; older checkpoints may lack the latter."""
    parts = list(parts)
    return {
        "seconds": sum(part["seconds"] for part in parts),
        "processor_seconds": sum(part.get("processor_seconds", 0.0) for part in parts),
    }
