"""The exceptions of this library: each says what was wanted, what came, and what to do."""

import difflib
from collections.abc import Iterable


class DSAError(Exception):
    """Base of every error that this library raises on purpose."""


class TraceError(DSAError, RuntimeError):
    """A network could not be traced, or a part of it is outside what tracing understands."""


class BudgetError(DSAError, ValueError):
    """A budget is out of range, or cannot be reached under the given floors."""


class SurgeryError(DSAError, RuntimeError):
    """A pruned network could not be built, run, saved or loaded."""


class TrainingError(DSAError, RuntimeError):
    """A training stopped: the loss is not finite, or a checkpoint does not fit."""


class DataError(DSAError, RuntimeError):
    """A dataset is missing or damaged; the message says where to put it."""


class ConfigError(DSAError, ValueError):
    """A name or a setting is unknown; the message suggests the nearest right one."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an error message: the nearest known name, then all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f": did you mean {close[0]!r}?" if close else "."
    return f"{hint} Known are {', '.join(names)}"
