"""The operators that one forward pass calls, in order: what a recorder notes, or an export gives.

The operators are those that the code calls (`conv2d`, `layer_norm`), not what they are made of.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch._ops import OpOverload

Kind = Literal["state", "constant", "input"]


@dataclass(eq=False, slots=True)
class Value:
    """A tensor: its shape, and the step that made it; None if the program is given it."""

    shape: tuple[int, ...]
    step: "Step | None" = None


@dataclass(eq=False, slots=True)
class Step:
    """One call of an operator.

    Attributes:
        args: every argument of its schema (`target._schema`), defaults filled in; tensors as
            `Value`.
        outputs: the tensors that it returns.
        listed: whether it returns several.
        module: path of the module that calls it, "" for the network itself.
    """

    target: OpOverload
    args: dict[str, Any]
    module: str
    outputs: list[Value] = field(default_factory=list)
    listed: bool = False

    @property
    def op(self) -> str:
        """The operator without namespace, overload and trailing underscore: "unfold" for
        aten.unfold.default, "relu" for aten.relu_.default."""
        return signature(self.target).op

    def inputs(self) -> Iterator[Value]:
        """Every tensor among the arguments, in order."""
        for value in self.args.values():
            for item in value if isinstance(value, list | tuple) else (value,):
                if isinstance(item, Value):
                    yield item


@dataclass(frozen=True)
class Given:
    """A tensor that a program is given: a parameter or buffer of that name, a constant, or a part
    of the example."""

    value: Value
    kind: Kind
    name: str = ""


@dataclass
class Program:
    """What a forward pass is given, the operators that it calls, and the tensors it returns."""

    given: list[Given] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    returned: list[Value] = field(default_factory=list)

    def give(self, tensor: Tensor, kind: Kind, name: str = "") -> Value:
        """Note one more tensor that is given."""
        value = Value(tuple(tensor.shape))
        self.given.append(Given(value, kind, name))
        return value

    def call(
        self, target: OpOverload, args: dict[str, Any], output: Any, module: str
    ) -> list[Value | None]:
        """Note a call; returns what stands for each thing that it returned, None for no tensor."""
        step = Step(target, args, module, listed=isinstance(output, list | tuple))
        self.steps.append(step)
        listed = output if step.listed else [output]
        made = [Value(tuple(o.shape), step) if isinstance(o, Tensor) else None for o in listed]
        step.outputs = [value for value in made if value is not None]
        return made


@dataclass(frozen=True)
class Signature:
    """What a schema says, read once."""

    op: str
    names: tuple[str, ...]
    defaults: dict[str, Any]
    pointwise: bool


@cache
def signature(target: OpOverload) -> Signature:
    """The signature of an operator."""
    schema = target._schema
    defaults = {
        a.name: a.default_value if a.has_default_value() else None for a in schema.arguments
    }
    name = schema.name.removeprefix("aten::").rstrip("_")
    return Signature(name, tuple(defaults), defaults, torch.Tag.pointwise in target.tags)
