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
        op, args, module: as in `Step`; tensors as `Ids`.
        shapes: the shape of every tensor that it returns.
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

    def axes(self, rank: int) -> list[int]:
        """The axes that `dim` names, counted from the front; all if it names none."""
        dims = self.args.get("dim")
        if dims is None or dims == []:
            return list(range(rank))
        return [d % rank for d in ([dims] if isinstance(dims, int) else dims)]

    def state(self, argument: str) -> str | None:
        """The state-dict name, if this argument is a parameter or buffer as it stands."""
        value = self.args.get(argument)
        return value.name if isinstance(value, StateIds) and value.whole is None else None


class StateIds(Ids):
    """The ids of a parameter or buffer, one for each element, handed out when first asked for.

    Attributes:
        name: in the state dict.
        whole: the matrix as it is stored, if this is its transposed.
    """

    def __init__(
        self, book: IdBook, shape: tuple[int, ...], name: str, whole: "StateIds | None" = None
    ) -> None:
        self.book, self.shape, self.name, self.whole = book, shape, name, whole

    def turned(self) -> "StateIds":
        """The transposed matrix."""
        return self.whole or StateIds(self.book, self.shape[::-1], self.name, self)

    @cached_property
    def base(self) -> Tensor:  # type: ignore[override]
        """One id for each element."""
        if self.whole is not None:
            return self.whole.base.T
        return self.book.fresh(prod(self.shape)).reshape(self.shape)

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
