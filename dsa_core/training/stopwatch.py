"""How long something took: by the clock on the wall, and of the processors."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict


class Spent(TypedDict):
    """Time that a piece of work took."""

    seconds: float
    processor_seconds: float


@dataclass(frozen=True)
class Stopwatch:
    """Runs from where it is made.

    Attributes:
        seconds: on the wall when it was started, from some origin.
        processor: seconds of all threads of this process when it was started.
    """

    seconds: float = field(default_factory=time.perf_counter)
    processor: float = field(default_factory=time.process_time)

    def read(self) -> dict[str, float]:
        """Seconds since the start.

        Returns:
            "seconds" on the wall; "processor_seconds" of all threads of this process: other
            programs on the machine, and time that the process was stopped, do not count.
        """
        return {
            "seconds": time.perf_counter() - self.seconds,
            "processor_seconds": time.process_time() - self.processor,
        }


def total_time(parts: Iterable[Mapping[str, Any]]) -> Spent:
    """Sum of "seconds" and "processor_seconds"; a part of an older checkpoint may lack the last."""
    parts = list(parts)
    return {
        "seconds": sum(part["seconds"] for part in parts),
        "processor_seconds": sum(part.get("processor_seconds", 0.0) for part in parts),
    }
