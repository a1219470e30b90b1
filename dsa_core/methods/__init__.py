"""The methods: each decides which channels stay under a budget. All share one signature."""

from collections.abc import Callable
from functools import partial

from torch import nn

from dsa_core.allocation import Allocation, Update, ratios_on_path
from dsa_core.budget import Budget
from dsa_core.channels import ChannelGraph
from dsa_core.dsa import DSA
from dsa_core.methods.amc import AMCSearch
from dsa_core.methods.config import (
    METHODS,
    AMCSettings,
    OnStep,
    SearchConfig,
    SearchData,
    SearchJob,
)
from dsa_core.methods.dcss import DCSS
from dsa_core.methods.dtp import DTP
from dsa_core.methods.dtp_weight import DTPWeight
from dsa_core.methods.knapsack import Knapsack
from dsa_core.methods.morphnet import MorphNet
from dsa_core.methods.penalised import Penalty
from dsa_core.methods.search import search
from dsa_core.methods.ssl import SSL
from dsa_core.methods.trials import Trials
from dsa_core.methods.uniform import Random, Uniform


def allocate(
    name: str,
    model: nn.Module,
    graph: ChannelGraph,
    budget: Budget,
    data: SearchData,
    config: SearchConfig,
    *,
    seed: int,
    on_step: OnStep | None = None,
) -> Allocation:
    """Search by the method of a name, which `config` has the settings of; see `SearchJob`.

    A penalty's strength is searched too (`Trials`). The model then ends with the weights of the
    chosen trial, and the cost aims at, or just below, the budget, and may miss it. Of `config` only
    `train`, `warmup_epochs`, `ratio_every` (steps between two entries of the history) and the
    method's own settings are read.
    """
    job = SearchJob(model, graph, budget, data, config, seed, on_step)
    if name == "amc":
        return AMCSearch(job).run()
    method = config.method(name)
    return Trials(method, job).run() if isinstance(method, Penalty) else search(method, job)


ALLOCATORS: dict[str, Callable[..., Allocation]] = {
    name: partial(allocate, name) for name in ("amc", *METHODS)
}
