"""Methods: given a network, a budget and data, which channels stay. All have one signature."""

from collections.abc import Callable

from dsa_core.allocation import Allocation, Update, ratios_on_path
from dsa_core.budget import Budget
from dsa_core.methods.config import METHODS, OnStep, SearchConfig, SearchData
from dsa_core.methods.search import allocator, search
from dsa_core.methods.uniform import Random, Uniform

ALLOCATORS: dict[str, Callable[..., Allocation]] = {name: allocator(name) for name in METHODS}
# what a method asks of a budget; raises before anything is trained
CHECKS: dict[str, Callable[[Budget], None]] = {}

__all__ = [
    "ALLOCATORS",
    "CHECKS",
    "METHODS",
    "Allocation",
    "OnStep",
    "Random",
    "SearchConfig",
    "SearchData",
    "Uniform",
    "Update",
    "ratios_on_path",
    "search",
]
