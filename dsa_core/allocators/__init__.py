"""Allocators: given a network, a budget and data, which channels stay. All have one signature."""

from collections.abc import Callable

from dsa_core.allocators import (
    amc,
    dcss,
    dsa,
    dtp,
    dtp_weight,
    morphnet,
    random_ratios,
    ssl,
    uniform,
)
from dsa_core.allocators.allocation import Allocation, Update, ratios_on_path
from dsa_core.allocators.config import OnStep, SearchConfig, SearchData
from dsa_core.allocators.dtp_units import check_single_weights
from dsa_core.allocators.gradient import ratio_gradient
from dsa_core.allocators.problem import Problem
from dsa_core.allocators.search import search
from dsa_core.cost import Budget

ALLOCATORS: dict[str, Callable[..., Allocation]] = {
    "amc": amc.allocate,
    "dcss": dcss.allocate,
    "dsa": dsa.allocate,
    "dtp": dtp.allocate,
    "dtp-weight": dtp_weight.allocate,
    "morphnet": morphnet.allocate,
    "random": random_ratios.allocate,
    "ssl": ssl.allocate,
    "uniform": uniform.allocate,
}
# what a method asks of a budget; raises before anything is trained
CHECKS: dict[str, Callable[[Budget], None]] = {"dtp-weight": check_single_weights}

__all__ = [
    "ALLOCATORS",
    "CHECKS",
    "Allocation",
    "OnStep",
    "Problem",
    "SearchConfig",
    "SearchData",
    "Update",
    "amc",
    "dcss",
    "dsa",
    "dtp",
    "dtp_weight",
    "morphnet",
    "random_ratios",
    "ratio_gradient",
    "ratios_on_path",
    "search",
    "ssl",
    "uniform",
]
