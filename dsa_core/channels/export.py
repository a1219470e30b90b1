"""Export a network to a graph of operators, with errors that say which part failed."""

import warnings

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from dsa_core.errors import TraceError

ADVICE = (
    "a branch on the values of a tensor cannot be traced: let it depend on shapes or settings, "
    "or use torch.where; if an input does not fit, give an example of the right shape"
)


def export(model: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """Export in evaluation mode; the model's own mode is restored.

    Raises:
        TraceError: the export failed; names the innermost module that was running.
    """
    modes = {m: m.training for m in model.modules()}
    model.eval()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(model, inputs, strict=False)
    except Exception as error:
        where = failing_module(model, error)
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TraceError(
            f"tracing stopped in {where}: {type(error).__name__}: {first_line} ({ADVICE})"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode


def failing_module(model: nn.Module, error: BaseException) -> str:
    """The name and class of the innermost module on the error's stack."""
    names = {module: name for name, module in model.named_modules()}
    classes = {type(module).__name__: name for name, module in model.named_modules()}
    found = type(model).__name__
    trace = error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and trace.tb_frame.f_code.co_name == "forward":
            name = names.get(owner, classes.get(type(owner).__name__, ""))
            line = f"{trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}"
            found = f"{name or 'the network'} ({type(owner).__name__}, {line})"
        trace = trace.tb_next
    return found


def name_of_module(node: Node) -> str:
    """The path of the module that a node of the exported graph belongs to, '' at the top."""
    stack = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    return path.removeprefix("L['self'].").removeprefix("L['self']")
