"""Allocators: given a network, a budget and data, which channels stay. All have one signature."""

from collections.abc import Callable

from dsa_core.allocation import Allocation, Update, ratios_on_path
from dsa_core.budget import Budget
from dsa_core.methods import (
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
from dsa_core.methods.config import OnStep, SearchConfig, SearchData
from dsa_core.methods.dtp_units import check_single_weights
from dsa_core.methods.gradient import ratio_gradient
from dsa_core.methods.problem import Problem
from dsa_core.methods.search import search

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
