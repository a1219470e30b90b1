"""The exceptions of this library."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

SHOWN = 80  # characters of a wrong value shown in a message
SIMILAR = 0.5  # difflib's ratio of names that may be meant


class DSAError(Exception):
    """Base of this library's own errors; functions of tensors refuse shapes by ValueError."""


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


def check_whole(name: str, value: object, least: int) -> None:
    """Refuse what is not a whole number >= least."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name}: wanted a whole number >= {least}, got {value!r}")


def differences(saved: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What differs between two fingerprints, entry by entry; empty if nothing does."""
    return "; ".join(
        f"{key} was {saved.get(key, 'absent')!r} and is now {now.get(key, 'absent')!r}"
        for key in sorted({*saved, *now})
        if saved.get(key) != now.get(key)
    )


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name most similar to another, ignoring case; None if none is similar."""
    folded = {each.casefold(): each for each in sorted(known, reverse=True)}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=SIMILAR)
    return folded[near[0]] if near else None


def nearest(name: str, known: Iterable[str], *, otherwise: str | None = None) -> str:
    """The end of a message about an unknown name: ": did you mean 'dsa'?".

    If no name is near, it ends in the text `otherwise`; None lists the known ones.
    """
    names = sorted(known)
    if near := closest(name, names):
        return f": did you mean {near!r}?"
    return f". {otherwise or 'Known are ' + ', '.join(names)}"


def first_problem(error: "ValidationError") -> str:
    """The first error of pydantic in one line: entry, what was wanted, what came."""
    first = error.errors(include_url=False)[0]
    entry = "".join(f"{each}." for each in first["loc"])[:-1]
    if first["type"] == "value_error":  # one of our own checks
        words = str(first["ctx"]["error"])
    else:
        came = repr(first["input"])
        words = f"{first['msg']}, got {came if len(came) <= SHOWN else came[:SHOWN] + '...'}"
    return f"{entry}: {words}" if entry else words
