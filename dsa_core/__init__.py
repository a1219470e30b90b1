"""Budgeted pruning by differentiable sparsity allocation.

The way of the data, once, from left to right:

    model --trace--> ChannelGraph --Cost.of--> Cost --Budget--> allocator --> Allocation
          --prune--> pruned model --train--> Record --> table, picture

    import dsa_core as dsa

    graph = dsa.trace(model, example)
    allocation = dsa.ALLOCATORS["dsa"](model, graph, dsa.Budget(macs=0.5), data, config, seed=0)
    smaller = dsa.prune(model, graph, allocation.keep)
"""

from dsa_core import data, models
from dsa_core.admm import make_optimizer, uniform_ratio
from dsa_core.allocators import ALLOCATORS, Allocation, SearchConfig, SearchData
from dsa_core.channels import ChannelGraph, Group, trace
from dsa_core.cost import Budget, Cost, QuadraticForm, round_to_channels
from dsa_core.errors import (
    BudgetError,
    ConfigError,
    DataError,
    DSAError,
    SurgeryError,
    TraceError,
    TrainingError,
)
from dsa_core.experiment import RunConfig, configure, run
from dsa_core.kernels import soft_topk
from dsa_core.masks import importance, keep_probs, masked, masked_call, sample_mask, top_channels
from dsa_core.record import Record, find_records, read_record
from dsa_core.surgery import load, prune, save
from dsa_core.training import TrainConfig, evaluate, recalibrate_batchnorm, train

__version__ = "0.1.0"

__all__ = [
    "ALLOCATORS",
    "Allocation",
    "Budget",
    "BudgetError",
    "ChannelGraph",
    "ConfigError",
    "Cost",
    "DSAError",
    "DataError",
    "Group",
    "QuadraticForm",
    "Record",
    "RunConfig",
    "SearchConfig",
    "SearchData",
    "SurgeryError",
    "TraceError",
    "TrainConfig",
    "TrainingError",
    "configure",
    "data",
    "evaluate",
    "find_records",
    "importance",
    "keep_probs",
    "load",
    "make_optimizer",
    "masked",
    "masked_call",
    "models",
    "prune",
    "read_record",
    "recalibrate_batchnorm",
    "round_to_channels",
    "run",
    "sample_mask",
    "save",
    "soft_topk",
    "top_channels",
    "trace",
    "train",
    "uniform_ratio",
]
