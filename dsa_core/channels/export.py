"""Export a network to a graph of operators, with errors that say which part failed, and why."""

import io
import re
import warnings
from contextlib import redirect_stderr
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.func import functional_call

from dsa_core.channels.program import Program, attributes_kept, evaluating, returned
from dsa_core.errors import TraceError
from dsa_core.example import Call

DATA_DEPENDENT = re.compile(  # in the name or the text of torch's many errors of this one kind
    "data-dependent|DataDependent|DynamicOutputShape|Cannot cast FakeTensor|"
    r"\.numpy\(\) is not supported"
)
ADVICE = (
    "a branch on the values of a tensor, or their use in Python or numpy, cannot be traced: let it "
    "depend on shapes or settings, or use torch.where"
)
TORCH = str(Path(torch.__file__).parent)


def export(model: nn.Module, call: Call) -> Program:
    """Export in evaluation mode; the model's own mode is restored.

    Raises:
        TraceError: the forward itself raises, or it cannot be exported; names the innermost module
            that was running.
    """
    with evaluating(model), attributes_kept(model):
        handle = model.register_forward_hook(lambda _, __, output: returned(model, output))
        try:
            with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # dumps of whole graphs
                warnings.simplefilter("ignore")
                found = torch.export.export(model, call.args, call.kwargs, strict=False)
                return program(found)
        except TraceError:
            raise
        except Exception as error:
            handle.remove()
            cause = own_error(model, call)
            if cause is not None:
                raise TraceError(told_forward(model, call, cause)) from cause
            raise TraceError(told_export(model, error)) from error
        finally:
            handle.remove()


def program(exported: ExportedProgram) -> Program:
    """The graph, and what it is given, of an exported network."""
    specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
    holders = [node for node in exported.graph.nodes if node.op == "placeholder"]
    inputs = {node: (specs[node.name].kind, str(specs[node.name].target)) for node in holders}
    return Program(exported.graph, inputs, exported.graph_module)


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


def told_forward(model: nn.Module, call: Call, error: Exception) -> str:
    """Say that the network cannot be run on the example at all."""
    given = ", ".join(f"{name} {tuple(t.shape)} {kind(t)}" for name, t in call.tensors.items())
    weight = next(model.parameters(), None)
    own = "" if weight is None else f", the network is {kind(weight)}"
    return (
        f"the forward itself raises on this example, in {failing_module(model, error)}: "
        f"{first_line(error)} (the example: {given}{own}). Run model(...) on it until it works; if "
        "the input does not fit, give an example of the right shape, type and device"
    )


def told_export(model: nn.Module, error: Exception) -> str:
    """Say that the network runs, but cannot be traced."""
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
