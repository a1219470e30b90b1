"""Run a network once on channel ids instead of numbers (abstract interpretation of its exported graph)."""

import operator
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node

from dsa_core.channels.export import name_of_module
from dsa_core.channels.ids import NO_CHANNEL, IdBook, Ids
from dsa_core.errors import TraceError


@dataclass
class LayerTrace:
    """A layer that costs MACs: those of one example are `coefficient * rows * columns` of its weight."""

    name: str
    kind: str
    weight: str
    coefficient: int
    out_ids: Tensor
    in_ids: Tensor | None


@dataclass
class NormTrace:
    """A batch normalisation: the names of its scale and shift, and the ids they belong to."""

    weight: str
    bias: str | None
    ids: Tensor


@dataclass
class Call:
    """One node of the exported graph, with its arguments bound to the operator's own names."""

    op: str
    args: dict[str, Any]
    shapes: list[tuple[int, ...]]
    module: str
    node: Node

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the (first) result."""
        return self.shapes[0]

    def tensors(self) -> list["Ids"]:
        """Every tensor among the arguments, in order."""
        found: list[Ids] = []
        for value in self.args.values():
            found += [
                v
                for v in (value if isinstance(value, list | tuple) else [value])
                if isinstance(v, Ids)
            ]
        return found

    def state(self, argument: str) -> str | None:
        """The state-dict name, if this argument is a parameter or buffer as it stands."""
        value = self.args.get(argument)
        return value.name if isinstance(value, StateIds) else None


class StateIds(Ids):
    """The ids of a parameter or buffer, one for each element, handed out when first asked for."""

    def __init__(self, book: IdBook, shape: tuple[int, ...], name: str) -> None:
        object.__setattr__(self, "shape", shape)
        self.__dict__.update(book=book, name=name)

    @cached_property
    def base(self) -> Tensor:
        """One id for each element."""
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


Rule = Callable[["Tracer", Call], Any]


@dataclass
class Tracer:
    """The state of one interpretation: ids given out so far, and what was learned on the way."""

    rules: dict[str, Rule]
    book: IdBook = field(default_factory=IdBook)
    axes: dict[str, dict[int, Tensor]] = field(default_factory=lambda: defaultdict(dict))
    elements: dict[str, StateIds] = field(default_factory=dict)
    layers: dict[str, LayerTrace] = field(default_factory=dict)
    norms: list[NormTrace] = field(default_factory=list)
    unknown_ops: dict[str, int] = field(default_factory=dict)
    pinned: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    fixed_macs: int = 0
    batch: int = 0

    def run(self, program: ExportedProgram) -> None:
        """Interpret the whole graph, then freeze what leaves the network."""
        env: dict[Node, Any] = {}
        for node in program.graph.nodes:
            if node.op == "placeholder":
                env[node] = self._placeholder(program, node)
            elif node.op == "call_function":
                env[node] = self._call(node, env)
            elif node.op == "get_attr":
                env[node] = None  # a sub-graph; the operator that uses it is refused in _call
            elif node.op == "output":
                self._outputs(node, env)
        for name, reason in self.pinned.items():
            for ids in self.axes.get(name, {}).values():
                self.book.freeze(ids, reason)
            if self.elements[name].touched:
                self.book.freeze(self.elements[name].base, reason)

    def mark_axis(self, name: str, axis: int, ids: Tensor) -> None:
        """Note that an axis of a parameter or buffer carries these ids, uniting with what it carried."""
        before = self.axes[name].get(axis)
        self.axes[name][axis] = ids if before is None else self.book.unite(before, ids)

    def opaque(self, call: Call, reason: str) -> list[Ids]:
        """Freeze everything that goes in; what comes out cannot be pruned either."""
        why = f"{reason} ({call.module or 'network'})"
        for value in call.tensors():
            if isinstance(value, StateIds):
                self.pinned.setdefault(value.name, why)
            else:
                self.book.freeze(value.base, why)
        return [self.frozen_ids(shape, reason) for shape in call.shapes]

    def frozen_ids(self, shape: tuple[int, ...], reason: str) -> Ids:
        """One fresh frozen id at every position."""
        ids = self.book.fresh(1)
        self.book.freeze(ids, reason)
        return Ids.constant(shape, int(ids[0]))

    def _placeholder(self, program: ExportedProgram, node: Node) -> Ids:
        spec = next(s for s in program.graph_signature.input_specs if s.arg.name == node.name)
        shape = tuple(node.meta["val"].shape)
        if spec.kind == InputKind.USER_INPUT:
            axis = 1 if len(shape) > 1 else 0
            self.batch = self.batch or (shape[0] if len(shape) > 1 else 1)
            ids = self.book.fresh(shape[axis])
            self.book.freeze(ids, "network input")
            return Ids.along(ids, axis, shape)
        if spec.kind == InputKind.CONSTANT_TENSOR:
            many = node.meta["val"].numel() > 1
            return (
                self.frozen_ids(shape, f"constant {spec.target}") if many else Ids.constant(shape)
            )
        name = str(spec.target)
        if name not in self.elements:
            self.elements[name] = StateIds(self.book, shape, name)
        if not node.users and spec.kind == InputKind.PARAMETER:
            self.unused.append(name)
        return self.elements[name]

    def _call(self, node: Node, env: dict[Node, Any]) -> Any:
        if node.target is operator.getitem:
            return env[node.args[0]][node.args[1]]  # type: ignore[index]
        call = bind(node, env)
        if not call.shapes:
            return None
        if all(value.empty for value in call.tensors()):
            results: Any = [Ids.constant(shape) for shape in call.shapes]
        elif call.op in self.rules:
            results = self.rules[call.op](self, call)
        else:
            self.unknown_ops[str(node.target)] = self.unknown_ops.get(str(node.target), 0) + 1
            results = self.opaque(call, f"unknown op {node.target}")
        if isinstance(node.meta["val"], list | tuple):
            return results
        return results[0] if isinstance(results, list) else results

    def _outputs(self, node: Node, env: dict[Node, Any]) -> None:
        for value in torch.utils._pytree.tree_leaves(node.args):
            if isinstance(value, Node) and isinstance(env[value], Ids):
                self.book.freeze(env[value].base, "network output")


def bind(node: Node, env: dict[Node, Any]) -> Call:
    """Look a node's arguments up, and name them as the operator's schema does."""
    module = name_of_module(node)
    if not isinstance(node.target, torch._ops.OpOverload):
        raise TraceError(
            f"{module or 'the network'}: {node.target} is control flow; a channel cannot be followed through it. "
            "Trace the part before and after it, or replace the branch by a fixed one"
        )
    schema = node.target._schema.arguments
    args: dict[str, Any] = {
        a.name: (a.default_value if a.has_default_value() else None) for a in schema
    }
    args.update({a.name: value for a, value in zip(schema, node.args, strict=False)})
    args.update(node.kwargs)
    lookup = {name: torch.fx.map_arg(value, lambda n: env[n]) for name, value in args.items()}
    outputs = node.meta.get("val")
    outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
    shapes = [tuple(o.shape) for o in outputs if isinstance(o, Tensor)]
    name = node.target._schema.name.removeprefix("aten::").rstrip("_")
    return Call(name, lookup, shapes, module, node)


def state_aliases(model: nn.Module) -> dict[str, list[str]]:
    """Every name of each parameter and buffer, keyed by the first: tied weights have several."""
    seen: dict[int, str] = {}
    names: dict[str, list[str]] = defaultdict(list)
    pairs = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    for name, tensor in pairs:
        names[seen.setdefault(id(tensor), name)].append(name)
    return names


__all__ = [
    "NO_CHANNEL",
    "Call",
    "LayerTrace",
    "NormTrace",
    "Rule",
    "StateIds",
    "Tracer",
    "state_aliases",
]
