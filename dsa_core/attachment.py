"""How the Pruner holds on to somebody's network and optimizers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dsa_core.errors import ConfigError


class Hook:
    """A hook that a copy of its module does not take along.

    `copy.deepcopy` (an average of the weights, say) and pickling give a hook that does nothing.
    """

    def __init__(self, call: Callable[..., Any] | None) -> None:
        self.call = call

    def __call__(self, *arguments: Any) -> Any:
        """Call it, outside of any compiled graph."""
        return None if self.call is None else self.call(*arguments)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Hook":
        return Hook(None)

    def __reduce__(self) -> tuple[type["Hook"], tuple[None]]:
        return Hook, (None,)


def hook(call: Callable[..., Any]) -> Hook:
    """A hook that stays with its module, and that `torch.compile` leaves alone."""
    return Hook(torch.compiler.disable(call))


def plain(model: Any) -> nn.Module:
    """The network itself, inside `torch.compile` and wrappers for several processes.

    Raises:
        ConfigError: it is no module.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model: wanted a torch.nn.Module, got {type(model).__name__}")
    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    while True:
        if isinstance(model, wrappers):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod
        else:
            return model


def check_optimizers(model: nn.Module, given: Sequence[Any]) -> list[torch.optim.Optimizer]:
    """The optimizers themselves, inside wrappers such as Accelerate's.

    Raises:
        ConfigError: one is no optimizer, or none holds a parameter of the network.
    """
    found = []
    for optimizer in given:
        while not hasattr(optimizer, "_optimizer_step_pre_hooks") and hasattr(
            optimizer, "optimizer"
        ):
            optimizer = optimizer.optimizer
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ConfigError(
                f"attach: wanted torch optimizers, got {type(optimizer).__name__}; a scheduler or "
                "a trainer is none"
            )
        found.append(optimizer)
    held = {id(p) for o in found for group in o.param_groups for p in group["params"]}
    if not held & {id(p) for p in model.parameters()}:
        raise ConfigError(
            "attach: no optimizer that was given holds a parameter of the network: make the "
            "optimizer of model.parameters(), of the same model as the pruner"
        )
    return found


def skipped(optimizer: Any) -> bool:
    """Whether a fused optimizer will skip the step by itself, as a gradient scaler told it."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(float(found_inf))


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """A network in training mode whose buffers and modes come back as they were."""
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    modes = {module: module.training for module in model.modules()}
    model.train()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for name, value in model.named_buffers():
                value.copy_(buffers[name])


def check_state(state: Mapping[str, Any], wanted: int, mine: Mapping[str, str]) -> None:
    """Refuse a saved state of another search.

    Raises:
        ConfigError: says in what they differ.
    """
    saved = state.get("fingerprint", {})
    if state.get("format") != wanted or not isinstance(saved, Mapping):
        raise ConfigError("load_state_dict: wanted what Pruner.state_dict() returned")
    wrong = [
        f"{key} was {saved.get(key, 'absent')!r} and is now {value!r}"
        for key, value in mine.items()
        if saved.get(key) != value
    ]
    if wrong:
        raise ConfigError(f"load_state_dict: the state is of another search: {'; '.join(wrong)}")
