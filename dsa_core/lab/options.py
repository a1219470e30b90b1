"""Parse the options of `dsa run`: budgets, floors and changed settings."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dsa_core.errors import BudgetError, ConfigError

if TYPE_CHECKING:
    from dsa_core.budget import Resource


def parse_budgets(
    texts: Sequence[str], calibration: Path | None = None
) -> "list[tuple[tuple[Resource, float], ...]]":
    """Parse ["macs=0.5", "macs=0.3", "params=0.4"]: here two budgets, each of MACs and parameters.

    Returns:
        The budgets, each with one ratio per named resource.
    """
    ratios: dict[Resource, dict[float, None]] = {}
    for text in texts:
        resource, ratio = parse_budget(text, calibration)
        ratios.setdefault(resource, {})[ratio] = None
    named = [[(resource, ratio) for ratio in found] for resource, found in ratios.items()]
    return list(itertools.product(*named))


def parse_budget(text: str, calibration: Path | None = None) -> "tuple[Resource, float]":
    """Parse "macs=0.5"; milliseconds become a ratio of the calibrated dense latency."""
    name, _, value = text.partition("=")
    try:
        ratio = float(value)
    except ValueError:
        ratio = float("nan")
    if name == "latency_ms" and calibration is not None:
        ratio /= dense_ms(calibration)
    names: dict[str, Resource] = {"macs": "macs", "params": "params", "latency": "latency"}
    if calibration is not None:
        names["latency_ms"] = "latency"
    if name not in names or not 0 < ratio <= 1:
        raise BudgetError(
            "--budget must be macs=RATIO, params=RATIO or latency=RATIO with RATIO in (0, 1], or, "
            "with --calibration, latency_ms=TIME up to that of the dense network; got "
            f"{text!r}"
        )
    return names[name], ratio


def dense_ms(calibration: Path) -> float:
    """Milliseconds of the dense network according to its calibration."""
    from dsa_core.budget import NS_PER_MS
    from dsa_core.lab.calibration import read_calibration

    return read_calibration(calibration).cost().dense / NS_PER_MS


def parse_floors(texts: list[str]) -> dict[str, float]:
    """Parse "layer1.0.conv1=0.25"."""
    floors = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            floors[name] = float(value)
        except ValueError:
            raise BudgetError(f"--floor must be GROUP=RATIO, got {text!r}") from None
    return floors


def parse_changes(texts: list[str]) -> dict[str, str]:
    """Parse "search.ratio_every=10"."""
    changes = dict(text.partition("=")[::2] for text in texts)
    if any(not path or not value for path, value in changes.items()):
        raise ConfigError(f"--set must be SETTING=VALUE, got {' '.join(texts)!r}")
    return changes
