"""Write a network as ONNX, and make sure that ONNX Runtime computes the same."""

import copy
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from dsa_core.errors import ConfigError, SurgeryError
from dsa_core.files import write_atomically

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
BATCHES = (1, 3)  # sizes that the file is tried with beside that of the example
TOLERANCE = 1e-3  # largest difference, of the largest output: another order of float32 sums


@dataclass(frozen=True)
class OnnxCheck:
    """How a written file compares with the network it came from.

    Attributes:
        path: of the file.
        max_abs_diff: largest difference of an output over all batch sizes tried.
        batches: those sizes.
        megabytes: size of the file.
    """

    path: Path
    max_abs_diff: float
    batches: tuple[int, ...]
    megabytes: float


def export_onnx(model: nn.Module, path: Path, x: Tensor) -> OnnxCheck:
    """Write a network in evaluation mode as one ONNX file that takes a batch of any size.

    The file is checked by `onnx`, run by ONNX Runtime on the CPU in float32, and compared with the
    network at several batch sizes before it gets its name; a file that differs is not written.

    Args:
        model: with one tensor in and one out; it is left as it was.
        path: of the file; an older one is replaced.
        x: a batch of examples to compare on, shape (B, ...), float32.

    Raises:
        ConfigError: a package of the extra `onnx` is missing.
        SurgeryError: the exporter, the checker or the runtime refuses the network, or the outputs
            differ by more than 1e-3 of the largest.
    """
    require_onnx()
    network, x = copy.deepcopy(model).cpu().float().eval(), x.detach().cpu().float()
    content = onnx_bytes(network, x)
    sizes = tuple(sorted({*BATCHES, len(x)}))
    differences, largest = [], 0.0
    for size in sizes:
        batch = x[torch.arange(size) % len(x)]
        wanted = outputs(network, batch)
        found = run_onnx(content, batch)
        if found.shape != wanted.shape:
            raise SurgeryError(
                f"{path}: ONNX Runtime gives the shape {tuple(found.shape)} for a batch of {size}, "
                f"the network {tuple(wanted.shape)}: does its forward fix the size of the batch?"
            )
        differences.append(float((found - wanted).abs().max()))
        largest = max(largest, float(wanted.abs().max()))
    if not max(differences) <= TOLERANCE * max(largest, 1.0):
        raise SurgeryError(
            f"{path}: ONNX Runtime differs from the network by {max(differences):.3g}, where the "
            f"largest output is {largest:.3g}; the file was not written. Please report the network"
        )
    write_atomically(path, content)
    return OnnxCheck(path, max(differences), sizes, len(content) / 1e6)


def require_onnx() -> None:
    """Refuse early where a package is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"writing ONNX needs {', '.join(missing)}: pip install 'dsa_core[onnx]' brings them"
        )


def outputs(network: nn.Module, batch: Tensor) -> Tensor:
    """What the network itself gives, or a SurgeryError that names the size of the batch."""
    try:
        with torch.no_grad():
            found: Tensor = network(batch)
    except RuntimeError as error:
        raise SurgeryError(
            f"the network does not take a batch of {len(batch)}: {error}. Does its forward fix the "
            "size of the batch?"
        ) from error
    return found


def onnx_bytes(network: nn.Module, x: Tensor) -> bytes:
    """Export a network in evaluation mode; the first axis of input and output may have any size.

    Raises:
        SurgeryError: the exporter or the checker refuses it.
    """
    import onnx

    batch = x[torch.arange(max(2, len(x))) % len(x)]  # a batch of 1 would be taken for a constant
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own insides
            program = torch.onnx.export(
                network,
                (batch,),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=["input"],
                output_names=["output"],
                verbose=False,
            )
        assert program is not None  # None only from the exporter of old, dynamo=False
        proto = program.model_proto
        onnx.checker.check_model(proto, full_check=True)
        content: bytes = proto.SerializeToString()
    except Exception as error:  # the exporter has many kinds of error of its own
        raise SurgeryError(
            f"the ONNX exporter refuses the network: {type(error).__name__}: {error}"
        ) from error
    return content


def run_onnx(content: bytes, x: Tensor) -> Tensor:
    """Run a network of one input and one output on the CPU.

    Args:
        content: of an ONNX file.
        x: the input, float32.
    """
    session = onnx_session(content)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(found)


def onnx_session(content: bytes | Path, *, threads: int = 0):  # type: ignore[no-untyped-def]
    """Open a network in ONNX Runtime on the CPU.

    Args:
        content: an ONNX file, or what is in it.
        threads: to run on; 0 for as many as torch takes.

    Returns:
        An `onnxruntime.InferenceSession` (untyped: the package is optional).

    Raises:
        SurgeryError: the runtime refuses it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3  # errors only
    source = content if isinstance(content, bytes) else str(content)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common class of their own
        raise SurgeryError(f"ONNX Runtime refuses the network: {error}") from error
