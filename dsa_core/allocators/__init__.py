"""Allocators: given a network, a budget and data, which channels stay. All have one signature."""

from collections.abc import Callable

from dsa_core.allocators import dsa, uniform
from dsa_core.allocators.allocation import Allocation, Update
from dsa_core.allocators.search import OnStep, SearchConfig, SearchData, ratio_gradient

ALLOCATORS: dict[str, Callable[..., Allocation]] = {
    "dsa": dsa.allocate,
    "uniform": uniform.allocate,
}

__all__ = [
    "ALLOCATORS",
    "Allocation",
    "OnStep",
    "SearchConfig",
    "SearchData",
    "Update",
    "dsa",
    "ratio_gradient",
    "uniform",
]
