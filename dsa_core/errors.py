"""The exceptions of this library: each says what was wanted, what came, and what to do."""


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
