"""One operator of the exported graph, with what it is given."""

from dataclasses import dataclass
from functools import cache, cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from dsa_core.channels.ids import IdBook, Ids
from dsa_core.channels.program import name_of_module
from dsa_core.errors import TraceError


@dataclass
class OpCall:
    """One node of the exported graph, with its arguments bound to the operator's own names.

    Attributes:
        op: the operator without namespace, overload and trailing underscore: "unfold" for
            aten.unfold.default, "relu" for aten.relu_.default.
        args: every argument of its schema (`torch.ops.aten.unfold.default._schema`), defaults
            filled in; tensors as `Ids`.
        shapes: the shape of every tensor that it returns.
        module: path of the module that calls it, "" for the network itself.
    """

    op: str
    args: dict[str, Any]
    shapes: list[tuple[int, ...]]
    module: str
    node: Node

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the (first) result."""
        return self.shapes[0]

    def tensors(self) -> list[Ids]:
        """Every tensor among the arguments, in order."""
        values = [v if isinstance(v, list | tuple) else [v] for v in self.args.values()]
        return [v for listed in values for v in listed if isinstance(v, Ids)]

    def state(self, argument: str) -> str | None:
        """The state-dict name, if this argument is a parameter or buffer as it stands."""
        value = self.args.get(argument)
        return value.name if isinstance(value, StateIds) and value.whole is None else None


class StateIds(Ids):
    """The ids of a parameter or buffer, one for each element, handed out when first asked for."""

    def __init__(
        self, book: IdBook, shape: tuple[int, ...], name: str, whole: "StateIds | None" = None
    ) -> None:
        object.__setattr__(self, "shape", shape)
        self.__dict__.update(book=book, name=name, whole=whole)

    def turned(self) -> "StateIds":
        """The transposed matrix."""
        if self.whole is not None:
            return self.whole
        return StateIds(self.__dict__["book"], self.shape[::-1], self.name, self)

    @property
    def whole(self) -> "StateIds | None":
        """The matrix as it is stored, if this is its transposed."""
        whole: StateIds | None = self.__dict__["whole"]
        return whole

    @cached_property
    def base(self) -> Tensor:
        """One id for each element."""
        if self.whole is not None:
            return self.whole.base.T
        book: IdBook = self.__dict__["book"]
        return book.fresh(prod(self.shape)).reshape(self.shape)

    @property
    def name(self) -> str:
        """The state-dict name."""
        return str(self.__dict__["name"])

    @property
    def touched(self) -> bool:
        """Whether any operator used the elements one by one."""
        return "base" in self.__dict__

    @property
    def empty(self) -> bool:
        """A parameter counts as something that may meet channels."""
        return False


@cache
def signature(target: torch._ops.OpOverload) -> tuple[str, dict[str, Any]]:
    """The name of an operator, and its arguments with their defaults, None where there is none."""
    schema = target._schema
    defaults = {
        a.name: a.default_value if a.has_default_value() else None for a in schema.arguments
    }
    return schema.name.removeprefix("aten::").rstrip("_"), defaults


def bind(node: Node, env: dict[Node, Any]) -> OpCall:
    """Look a node's arguments up, and name them as the operator's schema does."""
    module = name_of_module(node)
    if not isinstance(node.target, torch._ops.OpOverload):
        raise TraceError(
            f"{module or 'the network'}: {node.target} computes with the value of a tensor, "
            "through which a channel cannot be followed. Compute with shapes or settings instead"
        )
    name, defaults = signature(node.target)
    args = {**defaults, **dict(zip(defaults, node.args, strict=False)), **node.kwargs}
    lookup = {name: torch.fx.map_arg(value, lambda n: env[n]) for name, value in args.items()}
    outputs = node.meta.get("val")
    outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
    shapes = [tuple(o.shape) for o in outputs if isinstance(o, Tensor)]
    return OpCall(name, lookup, shapes, module, node)
