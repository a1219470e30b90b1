"""Checks of what is passed to a Pruner: networks and optimizers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from dsa_core.attachment import Hook, nothing
from dsa_core.errors import ConfigError
from dsa_core.surgery.cut import duplicate


def layers_around(model: Any) -> list[nn.Module]:
    """The wrappers of a network from the outside in, ending with the network itself.

    `torch.compile`, averaged models, and wrappers for several processes are unwrapped.

    Raises:
        ConfigError: it is not a module.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model: wanted a torch.nn.Module, got {type(model).__name__}")
    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel, AveragedModel)
    found: list[nn.Module] = [model]
    while True:
        if isinstance(found[-1], wrappers):
            found.append(found[-1].module)
        elif isinstance(inner := getattr(found[-1], "_orig_mod", None), nn.Module):
            found.append(inner)
        else:
            return found


def plain(model: Any) -> nn.Module:
    """The network itself, see `layers_around`."""
    return layers_around(model)[-1]


def followed(model: nn.Module) -> list[nn.Module]:
    """The modules whose calls show that the network runs.

    The network itself, and its compiled form, which may have been called before and then ignores
    new hooks inside. A compiled container of torch's own is traced with its hooks; without any it
    stays one graph (called past its compiled form, it is then followed by nobody).

    Raises:
        ConfigError: a DataParallel of several devices copies the weights before they are masked.
    """
    chain = layers_around(model)
    if any(isinstance(m, nn.DataParallel) and len(m.device_ids) > 1 for m in chain):
        raise ConfigError(
            "model: nn.DataParallel copies the weights to its devices before they are masked: use "
            "DistributedDataParallel, or DataParallel(model, device_ids=[0])"
        )
    compiled = [m for m in chain if hasattr(m, "_orig_mod")]
    traced = compiled and type(chain[-1]).__module__.startswith("torch.nn")
    return compiled if traced else [*compiled, chain[-1]]


def check_free(model: nn.Module) -> None:
    """Refuse a network held by another pruner: its masks would multiply with ours."""
    hooks = model._state_dict_hooks.values()
    if any(isinstance(hook, Hook) and hook.func is not nothing for hook in hooks):
        raise ConfigError("a pruner is attached to this network already; detach() it first")


def check_optimizers(
    model: nn.Module, given: Sequence[Any], masked: Iterable[str]
) -> list[torch.optim.Optimizer]:
    """The optimizers themselves, inside wrappers such as Accelerate's; `given` to `attach`.

    Raises:
        ConfigError: one is not an optimizer or holds no parameter of the network, or a parameter
            that is `masked`, by name, requires a gradient and is in none: steps of another
            optimizer would be lost.
    """
    own = {id(p) for p in model.parameters()}
    found: list[torch.optim.Optimizer] = []
    held: set[int] = set()
    for optimizer in given:
        while hasattr(optimizer, "optimizer"):
            optimizer = optimizer.optimizer
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ConfigError(
                f"attach: wanted torch optimizers, got {type(optimizer).__name__}; not a scheduler "
                "or a trainer"
            )
        here = {id(p) for group in optimizer.param_groups for p in group["params"]} & own
        if not here:
            raise ConfigError(
                f"attach: {type(optimizer).__name__} holds no parameter of the network: create "
                "the optimizer from model.parameters(), of the same model as the pruner"
            )
        found.append(optimizer)
        held |= here
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    left = [name for name in masked if name in weights and id(weights[name]) not in held]
    if left:
        raise ConfigError(
            f"attach: {left[0]} requires a gradient and is in none of the {len(found)} optimizers "
            "passed: pass all that train the network, attach(one, two), or freeze the others with "
            f"requires_grad_(False) ({len(left)} parameters)"
        )
    return found


def weights_of(model: nn.Module, wanted: Any, dense: Mapping[str, Tensor]) -> nn.Module:
    """The network whose weights are cut: "searched", "dense" or one of the same shape.

    Args:
        model: the searched one.
        dense: weights and buffers at the start; empty before it.

    Raises:
        ConfigError: `wanted` is something else, or there are no dense weights yet.
    """
    if isinstance(wanted, nn.Module):
        return plain(wanted)
    if wanted == "searched":
        return model
    if wanted != "dense" or not dense:
        raise ConfigError(
            f"weights: wanted 'searched', 'dense' (as they were at attach) or a network, got "
            f"{wanted!r}"
        )
    source = duplicate(model)
    for name, value in source.state_dict(keep_vars=True).items():
        if name in dense:
            value.data = dense[name].clone()
    return source
