"""A measured number: median, count, spread, unit."""

import statistics
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict


class Figure(BaseModel):
    """A number that was measured several times; frozen.

    Attributes:
        median: of all times.
        n: how many times.
        spread: first and third quartile: the middle half lies between.
        unit: of median and spread; "times" for a ratio.
        note: what else one has to know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    median: float
    n: int
    spread: tuple[float, float]
    unit: str
    note: str = ""


def figure(values: Sequence[float], unit: str, note: str = "") -> Figure:
    """Put measured values together, at least one; numbers are kept to four digits.

    Raises:
        ValueError: there is none.
    """
    if not values:
        raise ValueError("values: wanted at least one measured number, got none")
    ends = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    )
    return Figure(
        median=digits(statistics.median(values)),
        n=len(values),
        spread=(digits(ends[0]), digits(ends[2])),
        unit=unit,
        note=note,
    )


def digits(value: float) -> float:
    """Round to four significant digits: more is not known."""
    return float(f"{value:.4g}")


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Divide measured values pair by pair: both of a pair met the same busy machine."""
    return [a / b for a, b in zip(over, under, strict=True)]
