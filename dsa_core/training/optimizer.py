"""SGD or AdamW, and the learning rate as a pure function of the step."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dsa_core.errors import ConfigError
from dsa_core.training.config import TrainConfig

Factory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def make_sgd(model: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    """Make SGD with momentum for a model's parameters."""
    return torch.optim.SGD(
        with_decay(model, config),
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
        weight_decay=config.weight_decay,
    )


def with_decay(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """The trainable parameters in groups; with `decay_norm=False` those of one axis or none
    (BatchNorm's scale and shift, biases) do not decay."""
    parameters = trainable(model)
    groups: list[dict[str, Any]] = [{"params": parameters}]
    if not config.decay_norm:
        groups = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
    return [group for group in groups if group["params"]]


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen."""
    return [p for p in model.parameters() if p.requires_grad]


def make_optimizer(
    model: nn.Module, config: TrainConfig, factory: Factory | None
) -> torch.optim.Optimizer:
    """Make the optimizer of a model's parameters by a factory, or the configured one without.

    The learning rates set by the factory are peak rates: each group's becomes a factor of the
    schedule.

    Raises:
        ConfigError: the factory does not return an optimizer.
    """
    if factory is None and config.optimizer == "sgd":
        return make_sgd(model, config)
    if factory is None:
        return torch.optim.AdamW(
            with_decay(model, config),
            lr=config.lr,
            betas=(config.momentum, 0.999),
            weight_decay=config.weight_decay,
        )
    made = factory(trainable(model))
    if not isinstance(made, torch.optim.Optimizer):
        raise ConfigError(
            "optimizer: wanted a function of the parameters that returns an optimizer, such as "
            f"lambda params: torch.optim.AdamW(params, 1e-3), which returned {made!r}"
        )
    for group in made.param_groups:
        group["lr_factor"] = group["lr"] / config.lr if config.lr else 0.0
    return made


def lr_at(step: int, total_steps: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """The learning rate of a step.

    With t = step, T = total_steps, W = min(round(warmup T), T - 1), e = t // steps_per_epoch:

        one_cycle   lr min((t + 1) / (W + 1), (T - t) / (T - W)), a triangle with its peak at t = W
        cosine      lr (1 + cos(pi t / T)) / 2
        multi_step  lr gamma^(number of milestones <= e)
        constant    lr

    The rate is never 0. A pure function needs no state in a checkpoint, unlike torch's schedulers.

    Args:
        step: in 0 .. total_steps - 1.
        total_steps: of the whole training.
        steps_per_epoch: batches in an epoch.
        config: schedule, lr, warmup, milestones, gamma are read.

    Raises:
        ConfigError: the step is out of range.
    """
    if not 0 <= step < total_steps:
        raise ConfigError(f"step must be in 0 .. {total_steps - 1} (total_steps - 1), got {step}")
    if config.schedule == "one_cycle":
        rise = min(round(config.warmup * total_steps), total_steps - 1)
        share = min((step + 1) / (rise + 1), (total_steps - step) / max(1, total_steps - rise))
    elif config.schedule == "cosine":
        share = (1 + math.cos(math.pi * step / total_steps)) / 2
    elif config.schedule == "multi_step":
        passed = sum(milestone <= step // steps_per_epoch for milestone in config.milestones)
        share = config.gamma**passed
    else:
        share = 1.0
    return config.lr * share


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group, times its `lr_factor` if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)
