"""Record the operators of a network by running it once, without data: many times quicker than
`torch.export`, and the same graph. Whatever is not certain here is left to `torch.export`."""

import operator
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._dispatch.python import enable_python_dispatcher, no_python_dispatcher
from torch._export.utils import _compiling_state_context
from torch._ops import OpOverload
from torch._subclasses.schema_check_mode import SchemaCheckMode
from torch.export.graph_signature import InputKind
from torch.fx import Graph, Node

from dsa_core.channels.program import Program, attributes_kept, evaluating, returned
from dsa_core.channels.shapes import quick
from dsa_core.example import Call

META = torch.device("meta")
Note = dict[str, tuple[str, None]]  # the path of a module, in the form that torch.export gives it


class UnsureError(Exception):
    """The recorder met something that it may not see rightly."""


def record(model: nn.Module, call: Call) -> Program | None:
    """Run a network in evaluation mode on tensors without data, and note every operator.

    Parameters, buffers and constants stay where they are: each operator is given stand-ins on the
    meta device. So the network is not changed, no random number is drawn, and what reads values
    raises an error.

    Returns:
        The graph, or None wherever anything raises: `torch.export` then tells what it is.
    """
    recording = Recording()
    try:
        for name, value in model.named_parameters():
            recording.given(value, InputKind.PARAMETER, name)
        for name, buffer in model.named_buffers():
            recording.given(buffer, InputKind.BUFFER, name)
        for name, tensor in call.tensors.items():
            recording.given(tensor, InputKind.USER_INPUT, name)
        with (
            evaluating(model),
            attributes_kept(model),
            as_exported(),
            paths(model, recording),
            Mode(recording),
        ):
            output = returned(model, call(model))
        recording.graph.output([recording.known(found).node for found in output])
    except Exception:
        return None
    return Program(recording.graph, recording.inputs)


@dataclass
class Value:
    """A tensor of the run, its stand-in without data (itself, if it was computed), and its node."""

    tensor: Tensor
    twin: Tensor
    node: Node


@dataclass
class Recording:
    """The graph so far.

    Attributes:
        values: by the identity of a tensor, and of its twin; they hold on to both.
        fresh: new tensors by their storage: torch hands them on as shallow copies.
        stack: paths of the modules that are running, innermost last.
    """

    graph: Graph = field(default_factory=Graph)
    inputs: dict[Node, tuple[InputKind, str]] = field(default_factory=dict)
    values: dict[int, Value] = field(default_factory=dict)
    fresh: dict[int, Value] = field(default_factory=dict)
    stack: list[Note] = field(default_factory=lambda: [{"": ("", None)}])

    def given(self, tensor: Tensor, kind: InputKind, name: str) -> Value:
        """Note a tensor that the graph is given; a tied one keeps its first name."""
        if id(tensor) in self.values:
            return self.values[id(tensor)]
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_meta:
            raise UnsureError(f"{name}: a {type(tensor).__name__} on {tensor.device}")
        node = self.graph.placeholder(f"{kind.name}_{len(self.inputs)}")
        twin = torch.empty_like(tensor, device=META, requires_grad=False)
        node.meta["val"] = twin
        self.inputs[node] = kind, name
        self.values[id(tensor)] = self.values[id(twin)] = value = Value(tensor, twin, node)
        return value

    def known(self, tensor: Tensor) -> Value:
        """The value of an argument; a tensor with data that was never seen is a constant."""
        value = self.values.get(id(tensor)) or self.fresh.get(tensor.untyped_storage()._cdata)
        if value is None:
            return self.given(tensor, InputKind.CONSTANT_TENSOR, "constant")
        if id(tensor) not in self.values:
            if (tensor.shape, tensor.stride()) != (value.twin.shape, value.twin.stride()):
                raise UnsureError("a view that no operator made")
            self.values[id(tensor)] = value = Value(tensor, tensor, value.node)
        return value

    def call(self, function: OpOverload, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run an operator without data, and note it."""
        nodes, twins = self.both(args)
        named = {name: self.both(value) for name, value in kwargs.items()}
        named_twins = {name: twin for name, (_, twin) in named.items()}
        if makes(function):
            named_twins["device"] = META
        out = quick(function, twins, named_twins)
        if out is None:
            out = function(*twins, **named_twins)
        named_nodes = {name: node for name, (node, _) in named.items()}
        node = self.graph.call_function(function, tuple(nodes), named_nodes)
        node.meta["nn_module_stack"] = self.stack[-1]
        node.meta["val"] = out
        if isinstance(out, Tensor):
            self.note(out, node)
            if makes(function):
                self.fresh.setdefault(out.untyped_storage()._cdata, self.values[id(out)])
        elif isinstance(out, tuple | list):
            for i, value in enumerate(out):
                self.note(value, self.graph.call_function(operator.getitem, (node, i)))
        elif out is not None:
            raise UnsureError(f"{function} returns {out!r}")
        return out

    def note(self, tensor: Tensor, node: Node) -> None:
        """A result; what was computed in place is from now on that of this node."""
        if not tensor.is_meta:
            raise UnsureError(f"{node.target} returns data")
        self.values.setdefault(id(tensor), Value(tensor, tensor, node)).node = node

    def both(self, value: Any) -> tuple[Any, Any]:
        """An argument with nodes and with twins in place of tensors."""
        if isinstance(value, Tensor):
            known = self.known(value)
            return known.node, known.twin
        if isinstance(value, list | tuple):
            pairs = [self.both(v) for v in value]
            return [node for node, _ in pairs], [twin for _, twin in pairs]
        return value, META if isinstance(value, torch.device) else value


@cache
def makes(function: OpOverload) -> bool:
    """Whether an operator may be told on which device its result is to be."""
    return any(a.name == "device" and a.kwarg_only for a in function._schema.arguments)


class Mode(SchemaCheckMode):
    """Hands every operator to a recording before torch takes it apart into simpler ones.

    Of the modes that torch lets see them then, SchemaCheckMode is the one that adds nothing.
    """

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self.__dict__["_dispatch_key"] = torch._C.DispatchKey.PreDispatch
        self.recording = recording

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with no_python_dispatcher():
            return self.recording.call(func, args, kwargs or {})


@contextmanager
def as_exported() -> Iterator[None]:
    """The state in which `torch.export` runs a network, without gradients."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with (
        warnings.catch_warnings(),
        torch.no_grad(),
        enable_python_dispatcher(),
        _compiling_state_context(),
    ):
        warnings.simplefilter("ignore")
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def paths(model: nn.Module, recording: Recording) -> Iterator[None]:
    """Keep the stack of running modules."""
    notes: dict[nn.Module, Note] = {m: {"": (name, None)} for name, m in model.named_modules()}
    if len(notes) < sum(1 for _ in model.named_modules(remove_duplicate=False)):
        raise UnsureError("a module has two names")
    plain, stack = nn.Module.__call__, recording.stack

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        stack.append(notes.get(module, stack[-1]))
        try:
            return plain(module, *args, **kwargs)
        finally:
            stack.pop()

    with patch.object(nn.Module, "__call__", call):
        yield
