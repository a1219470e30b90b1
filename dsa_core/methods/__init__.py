"""The methods: each decides which channels stay under a budget. All share one signature."""

from collections.abc import Callable
from functools import partial

from dsa_core.allocation import Allocation, Update, ratios_on_path
from dsa_core.dsa import DSA
from dsa_core.methods import amc, trials
from dsa_core.methods.amc_settings import AMCSettings
from dsa_core.methods.config import METHODS, OnStep, SearchConfig, SearchData
from dsa_core.methods.dcss import DCSS
from dsa_core.methods.dtp import DTP
from dsa_core.methods.dtp_weight import DTPWeight
from dsa_core.methods.knapsack import Knapsack
from dsa_core.methods.morphnet import MorphNet
from dsa_core.methods.search import search
from dsa_core.methods.ssl import SSL
from dsa_core.methods.uniform import Random, Uniform

ALLOCATORS: dict[str, Callable[..., Allocation]] = {
    "amc": amc.allocate,
    **{name: partial(trials.allocate, name) for name in METHODS},
}
