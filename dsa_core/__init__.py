"""Budgeted pruning by differentiable sparsity allocation.

    import dsa_core as dsa

    result = dsa.compress(model, example, loader, budget=dsa.Budget(macs=0.5), loss=loss)

or, in a training loop of your own,

    pruner = dsa.Pruner(model, example, dsa.Budget(macs=0.5), steps=10_000).attach(optimizer)
    ...  # the loop
    smaller = pruner.finish()

The names below are loaded when they are first used (PEP 562): importing the library costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_HOMES = {
    "allocation": ("Allocation", "Update"),
    "budget": (
        "Budget",
        "Cost",
        "QuadraticForm",
        "make_optimizer",
        "round_to_channels",
        "uniform_ratio",
    ),
    "channels": ("ChannelGraph", "Group"),
    "compressed": ("Compressed",),
    "compression": ("compress",),
    "dsa": ("DSA",),
    "errors": (
        "BudgetError",
        "ConfigError",
        "DSAError",
        "DataError",
        "SurgeryError",
        "TraceError",
        "TrainingError",
    ),
    "kernels": ("soft_topk",),
    "lab.record": ("Record",),
    "lab.record_files": ("find_records", "read_record"),
    "lab.runs": ("RunConfig", "configure", "run"),
    "masks": ("keep_probs", "masked", "masked_call", "sample_mask", "top_channels"),
    "methods": ("ALLOCATORS", "SearchConfig", "SearchData"),
    "pruner": ("Pruner",),
    "ranking": ("importance",),
    "surgery": ("load", "prune", "reconstruct", "save"),
    "tracing": ("trace",),
    "training": ("TrainConfig", "evaluate", "recalibrate_batchnorm", "train"),
}
_MODULES = {"data": "lab.data", "methods": "methods", "models": "lab.models"}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME_OF, *_MODULES])


def __getattr__(name: str) -> Any:
    """Load a public name from the room it lives in."""
    if name in _MODULES:
        return import_module(f"{__name__}.{_MODULES[name]}")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    """Every public name, loaded or not."""
    return sorted([*globals(), *__all__])
