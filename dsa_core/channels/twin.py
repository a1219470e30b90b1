"""A copy of a network that can be run without a trace on the network itself."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

AS_THEY_ARE = {bool, int, float, str, type(None), FunctionType, BuiltinFunctionType, type,
               torch.dtype, torch.device, torch.Size}  # fmt: skip
CONTAINERS = (OrderedDict, list, set)


def twin_of(
    model: nn.Module, stand_in: Callable[[Tensor], Tensor]
) -> tuple[dict[nn.Module, str], nn.Module]:
    """A copy of a network on other tensors: its modules with their paths, and itself.

    Whatever the copy keeps in its attributes does not reach the network.

    Args:
        stand_in: the tensor that takes the place of one of the network's, always the same.
    """
    twins: dict[nn.Module, Any] = {m: object.__new__(type(m)) for m in model.modules()}
    memo: dict[int, Any] = {id(module): twin for module, twin in twins.items()}
    for module in twins:
        for held in (vars(module), module._parameters, module._buffers):
            tensors = (value for value in held.values() if isinstance(value, Tensor))
            memo.update({id(tensor): stand_in(tensor) for tensor in tensors})
    for module, twin in twins.items():
        vars(twin).update({name: copied(value, memo) for name, value in vars(module).items()})
    return {twins[module]: name for name, module in model.named_modules()}, twins[model]


def copied(value: Any, memo: dict[int, Any]) -> Any:
    """A deep copy; of the many plain values and containers of modules a quick one."""
    kind = type(value)
    if kind in AS_THEY_ARE or (kind is tuple and all(type(v) in AS_THEY_ARE for v in value)):
        return value
    if id(value) in memo:
        return memo[id(value)]
    if kind is dict:
        memo[id(value)] = made = {name: copied(v, memo) for name, v in value.items()}
        return made
    if kind in CONTAINERS and not value:
        return kind()
    return copy.deepcopy(value, memo)


@contextmanager
def called_modules(stack: list[str], names: dict[nn.Module, str]) -> Iterator[None]:
    """Keep the path of the module that runs, its hooks included, on top of a stack."""
    call: Callable[..., Any] = nn.Module.__call__

    def noted(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        stack.append(names.get(module, stack[-1]))
        try:
            return call(module, *args, **kwargs)
        finally:
            stack.pop()

    with patch.object(nn.Module, "__call__", noted):
        yield
