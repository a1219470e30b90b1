"""One operator of the program, with what it is given."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

from torch import Tensor

from dsa_core.channels.ids import IdBook, Ids
from dsa_core.channels.program import Step, Value


@dataclass
class OpCall:
    """One step of the program, with ids for its tensors.

    Attributes:
        op: the operator without namespace, overload and trailing underscore: "unfold" for
            aten.unfold.default, "relu" for aten.relu_.default.
        args: every argument of its schema (`torch.ops.aten.unfold.default._schema`), defaults
            filled in; tensors as `Ids`.
        shapes: the shape of every tensor that it returns.
        module: path of the module that calls it, "" for the network itself.
        used: whether anything reads what it returns.
    """

    op: str
    args: dict[str, Any]
    shapes: list[tuple[int, ...]]
    module: str
    used: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the (first) result."""
        return self.shapes[0]

    def tensors(self) -> list[Ids]:
        """Every tensor among the arguments, in order."""
        found: list[Ids] = []
        for value in self.args.values():
            if isinstance(value, Ids):
                found.append(value)
            elif isinstance(value, list | tuple):
                found += [v for v in value if isinstance(v, Ids)]
        return found

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


def bound(step: Step, env: Mapping[Value, Any], used: Collection[Value]) -> OpCall:
    """A step with the ids of its arguments, and whether one of its results is used."""

    args = step.args.copy()
    for name, value in args.items():
        if type(value) is Value:
            args[name] = env[value]
        elif type(value) is list:
            args[name] = [env[v] if type(v) is Value else v for v in value]
    return OpCall(
        step.op,
        args,
        [v.shape for v in step.outputs],
        step.module,
        any(v in used for v in step.outputs),
    )
