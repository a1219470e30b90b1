"""Export a network to a graph of operators, with errors that say which part failed, and why."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from operator import attrgetter, getitem
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator, OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.func import functional_call
from torch.fx import Graph, GraphModule, Node

from dsa_core.channels.program import Kind, Program, Value, signature
from dsa_core.errors import TraceError
from dsa_core.example import Call, tensors_in
from dsa_core.training.evaluate import mode

DATA_DEPENDENT = re.compile(  # in the name or the text of torch's many errors of this one kind
    "data-dependent|DataDependent|DynamicOutputShape|Cannot cast FakeTensor|"
    r"\.numpy\(\) is not supported"
)
ADVICE = (
    "a branch on the values of a tensor, or their use in Python or numpy, cannot be traced: let it "
    "depend on shapes or settings, or use torch.where"
)
KINDS: dict[InputKind, Kind] = {
    InputKind.USER_INPUT: "input",
    InputKind.CONSTANT_TENSOR: "constant",
}
REGIONS = ("wrap_with_set_grad_enabled", "wrap_with_autocast")  # `with torch.no_grad():` and so on
TORCH = str(Path(torch.__file__).parent)


def export(model: nn.Module, call: Call) -> ExportedProgram:
    """Export in evaluation mode; the model's own mode is restored.

    What the exported graph returns is the flat list of the tensors that the network returns.

    Raises:
        TraceError: the forward itself raises, or it cannot be exported; names the innermost module
            that was running.
    """
    with mode(model, training=False), attributes_kept(model):
        handle = model.register_forward_hook(lambda _, __, output: returned(model, output))
        try:
            with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # dumps of whole graphs
                warnings.simplefilter("ignore")
                return torch.export.export(model, call.args, call.kwargs, strict=False)
        except TraceError:
            raise
        except Exception as error:
            handle.remove()
            cause = own_error(model, call)
            if cause is not None:
                raise TraceError(forward_message(model, call, cause)) from cause
            raise TraceError(export_message(model, error)) from error
        finally:
            handle.remove()


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Tensors that are plain attributes, such as a weight that a hook recomputes before every
    forward pass (the old weight_norm, torch.nn.utils.prune), come back after a block."""
    found = [{k: v for k, v in vars(m).items() if isinstance(v, Tensor)} for m in model.modules()]
    try:
        yield
    finally:
        for module, kept in zip(model.modules(), found, strict=True):
            vars(module).update(kept)


def returned(model: nn.Module, output: Any) -> list[Tensor]:
    """The tensors that a network returns, which need not be known to torch's pytree."""
    found = tensors_in(output)
    if not found:
        raise TraceError(
            f"{type(model).__name__} returns a {type(output).__name__} that holds no tensor: let "
            "its forward return a tensor, or a tuple, dict or dataclass of them"
        )
    return found


def own_error(model: nn.Module, call: Call) -> Exception | None:
    """What the network raises when it is simply run, or None.

    It is run on copies of its buffers, and the state of the random generators is put back.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    tensors = [*call.tensors.values(), *model.parameters()]
    devices = {t.device.index or 0 for t in tensors if t.device.type == "cuda"}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            functional_call(model, buffers, call.args, call.kwargs)
    except Exception as error:
        return error
    return None


def forward_message(model: nn.Module, call: Call, error: Exception) -> str:
    """The message where the network cannot be run on the example at all."""
    given = ", ".join(f"{name} {tuple(t.shape)} {kind(t)}" for name, t in call.tensors.items())
    weight = next(model.parameters(), None)
    own = "" if weight is None else f", the network is {kind(weight)}"
    return (
        f"the forward itself raises on this example, in {failing_module(model, error)}: "
        f"{first_line(error)} (the example: {given}{own}). Run model(...) on it until it works; if "
        "the input does not fit, give an example of the right shape, type and device"
    )


def export_message(model: nn.Module, error: Exception) -> str:
    """The message where the network runs, but cannot be traced."""
    dependent = DATA_DEPENDENT.search(f"{type(error).__name__} {error}")
    return (
        f"the network runs, but torch.export cannot trace it: it stopped in "
        f"{failing_module(model, error)}: {first_line(error)}" + (f" ({ADVICE})" * bool(dependent))
    )


def kind(tensor: Tensor) -> str:
    """A tensor's type and device."""
    return f"{str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"


def first_line(error: Exception) -> str:
    """An error's class and the first line of its text."""
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])


def failing_module(model: nn.Module, error: BaseException) -> str:
    """The name and class of the innermost module on the error's stack, and the line it was at.

    The line is the innermost one outside torch, if the stack has one from the outermost forward on.
    """
    names = {module: name for name, module in model.named_modules()}
    classes = {type(module): name for name, module in model.named_modules()}
    found = line = outside = ""
    trace = error.__traceback__
    while trace is not None:
        frame, here = trace.tb_frame, at(trace.tb_frame, trace.tb_lineno)
        owner = frame.f_locals.get(next(iter(frame.f_code.co_varnames), ""))
        name = names.get(owner, classes.get(type(owner))) if isinstance(owner, nn.Module) else None
        if name is not None and frame.f_code.co_name == "forward":
            found, line = f"{name or 'the network'} ({type(owner).__name__}", here
        if found and not frame.f_code.co_filename.startswith(TORCH):
            outside = here
        trace = trace.tb_next
    return f"{found}, {outside or line})" if found else type(model).__name__


def at(frame: FrameType, line: int) -> str:
    """A place in the code as `file.py:12`."""
    return f"{Path(frame.f_code.co_filename).name}:{line}"


def program_of(exported: ExportedProgram, model: nn.Module) -> Program:
    """The operators of the exported graph of a network; a module of several names has its first.

    Raises:
        TraceError: it branches or loops, or computes with the value of a tensor.
    """
    program, env = Program(), dict[Node, Any]()
    specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
    for node in exported.graph.find_nodes(op="placeholder"):
        spec, value = specs[node.name], node.meta["val"]
        env[node] = value  # a number, a string or None that was passed in
        if isinstance(value, Tensor):
            env[node] = program.give(value, KINDS.get(spec.kind, "state"), str(spec.target))
    program.returned = follow_graph(exported.graph, exported.graph_module, program, env)
    first = dict[nn.Module, str]()
    named = model.named_modules(remove_duplicate=False)
    names = {name: first.setdefault(module, name) for name, module in named}
    for step in program.steps:
        step.module = names.get(step.module, step.module)
    return program


def follow_graph(
    graph: Graph, owner: GraphModule, program: Program, env: dict[Node, Any]
) -> list[Value]:
    """Add the operators of a graph to a program; returns the tensors that the graph returns."""

    def look_up(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [look_up(v) for v in value]
        return env[value] if isinstance(value, Node) else value

    for node in graph.nodes:
        if node.op == "get_attr":
            value = attrgetter(str(node.target))(owner)
            env[node] = program.give(value, "constant") if isinstance(value, Tensor) else value
        elif node.op == "call_function" and node.target is getitem:
            env[node] = env[node.args[0]][node.args[1]]
        elif isinstance(node.target, HigherOrderOperator):
            env[node] = follow_region(node, look_up(node.args), program)
        elif node.op == "call_function":
            module, output = name_of_module(node), node.meta.get("val")
            if not isinstance(node.target, OpOverload):
                raise TraceError(
                    f"{module or 'the network'}: {node.target} computes with the value of a "
                    "tensor, through which a channel cannot be followed. Compute with shapes or "
                    "settings instead"
                )
            known = signature(node.target)
            given = {**dict(zip(known.names, node.args, strict=False)), **node.kwargs}
            args = known.defaults | {name: look_up(value) for name, value in given.items()}
            made = program.call(node.target, args, output, module)
            env[node] = made if isinstance(output, list | tuple) else made[0]
    leaves = torch.utils._pytree.tree_leaves(graph.output_node().args)
    return [env[v] for v in leaves if isinstance(v, Node) and isinstance(env[v], Value)]


def follow_region(node: Node, args: list[Any], program: Program) -> list[Value]:
    """A part that runs in another mode is followed; branches and loops are refused."""
    bodies = [i for i, a in enumerate(args) if isinstance(a, GraphModule)]
    name = getattr(node.target, "_name", str(node.target))
    if name not in REGIONS or len(bodies) != 1:
        raise TraceError(
            f"{name_of_module(node) or 'the network'}: torch.{name} is control flow, through "
            "which a channel cannot be followed. Trace the part before and the part after it, "
            "or replace the branch by a fixed one or by torch.where"
        )
    body = args[bodies[0]]
    holders = body.graph.find_nodes(op="placeholder")
    env = dict(zip(holders, args[bodies[0] + 1 :], strict=True))
    return follow_graph(body.graph, body, program, env)


def name_of_module(node: Node) -> str:
    """The path of the module that a node of the exported graph belongs to, '' at the top."""
    stack = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    return path.removeprefix("L['self'].").removeprefix("L['self']")
