"""Training and evaluation."""

from dsa_core.training.batches import BatchSource, Feed, to_device
from dsa_core.training.checkpoint import load_checkpoint, save_checkpoint, shapes_fingerprint
from dsa_core.training.config import TrainConfig
from dsa_core.training.evaluate import (
    EvalResult,
    device_of_model,
    evaluate,
    mode,
    recalibrate_batchnorm,
    state_tensors,
)
from dsa_core.training.loader import Loader
from dsa_core.training.loop import TrainResult, train
from dsa_core.training.memory import keep_freed_memory
from dsa_core.training.objective import LossObjective
from dsa_core.training.optimizer import Factory, lr_at, make_sgd
from dsa_core.training.precision import (
    BF16,
    FP32,
    Precision,
    autocast,
    choose_precision,
    place,
    place_model,
)
from dsa_core.training.seeds import isolated_rng, step_seed
from dsa_core.training.task import Task
