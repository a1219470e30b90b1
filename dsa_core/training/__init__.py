"""Training and evaluation."""

from dsa_core.training.batches import Batch, BatchSource, Feed, to_device
from dsa_core.training.checkpoint import load_checkpoint, save_checkpoint, shapes_fingerprint
from dsa_core.training.config import TrainConfig
from dsa_core.training.evaluate import (
    EvalResult,
    device_of_model,
    evaluate,
    mode,
    recalibrate_batchnorm,
)
from dsa_core.training.loader import Loader
from dsa_core.training.loop import EpochRecord, TrainResult, train
from dsa_core.training.memory import keep_freed_memory
from dsa_core.training.meter import Meter
from dsa_core.training.objective import LossObjective, Objective
from dsa_core.training.optimizer import Factory, lr_at, make_sgd, set_lr
from dsa_core.training.precision import (
    BF16,
    FP32,
    Precision,
    autocast,
    choose_precision,
    place,
    place_model,
)
from dsa_core.training.processes import average
from dsa_core.training.seeds import isolated_rng, step_seed
from dsa_core.training.task import Task

__all__ = [
    "BF16",
    "FP32",
    "Batch",
    "BatchSource",
    "EpochRecord",
    "EvalResult",
    "Factory",
    "Feed",
    "Loader",
    "LossObjective",
    "Meter",
    "Objective",
    "Precision",
    "Task",
    "TrainConfig",
    "TrainResult",
    "autocast",
    "average",
    "choose_precision",
    "device_of_model",
    "evaluate",
    "isolated_rng",
    "keep_freed_memory",
    "load_checkpoint",
    "lr_at",
    "make_sgd",
    "mode",
    "place",
    "place_model",
    "recalibrate_batchnorm",
    "save_checkpoint",
    "set_lr",
    "shapes_fingerprint",
    "step_seed",
    "to_device",
    "train",
]
