"""Write a network as ONNX, also in 8-bit integers; ONNX Runtime must compute the same."""

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from dsa_core.errors import ConfigError, SurgeryError
from dsa_core.example import Call, tensors_in
from dsa_core.files import write_atomically
from dsa_core.surgery.cut import duplicate
from dsa_core.surgery.verify import distance, noise
from dsa_core.training.seeds import isolated_rng

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
BATCHES = (1, 3)  # sizes that the file is tried with beside that of the example
BLOCKS = (16, 8)  # channels that ONNX Runtime computes at once, with AVX-512 and without
ADVICE = (
    "ONNX Runtime computes channels in blocks of 16, of 8 without AVX-512, and is slow at other "
    "widths: half the MACs can take as long as all of them"
)
TOLERANCE = 1e-3  # largest difference, of the largest output: another order of float32 sums
ROUNDING = 1e-5  # an output that is no larger counts as so large


@dataclass(frozen=True)
class OnnxCheck:
    """How a written file compares with the network it came from; its size in megabytes.

    `max_abs_diff` is the largest difference of an output over the sizes of `batches`; of the file
    in 8-bit integers, where it is one.
    """

    path: Path
    max_abs_diff: float
    batches: tuple[int, ...]
    megabytes: float


class Flat(nn.Module):
    """A network as a function of the tensors of a call, which returns a list of tensors."""

    def __init__(self, network: nn.Module, call: Call) -> None:
        super().__init__()
        self.network, self.call = network, call

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        """Run the network on these tensors, in the places of those of the call."""
        given = iter(tensors)
        return tensors_in(self.call.map(lambda _: next(given))(self.network))


def export_onnx(
    model: nn.Module, path: str | Path, example: Any, *, int8: Iterable[Any] | None = None
) -> OnnxCheck:
    """Write a network in evaluation mode as one ONNX file that takes a batch of any size.

    The exporter folds a BatchNorm into the layer before it. The file is checked by `onnx`, run by
    ONNX Runtime on the CPU in float32, and compared with the network at several batch sizes before
    it gets its name; a file that differs is not written.

    Args:
        model: it is left as it was.
        path: of the file; an older one is replaced, and its folder is made if needed.
        example: a batch of examples to compare on, in any form that `trace` takes; the tensors
            whose first axis is `Call.batch` long may have any number of examples in the file. One
            input and one output are called "input" and "output", several are numbered.
        int8: some batches of inputs, to write the network in 8-bit integers (see `in_int8`). It is
            compared in float32 first; how much is lost by 8 bits, a score of `OnnxNetwork(path)`
            tells.

    Raises:
        ConfigError: a package of the extra `onnx` is missing.
        SurgeryError: `path` is a folder, the exporter, the checker or the runtime refuses the
            network, or the outputs differ by more than 1e-3 of the largest.
    """
    require_onnx()
    path = Path(path)
    if path.is_dir():
        raise SurgeryError(f"{path} is a folder: name the file in it, such as {path / 'net.onnx'}")
    call = Call.of(example).map(on_cpu)
    network = Flat(duplicate(model).cpu().float().eval(), call)
    content = onnx_bytes(network)
    sizes = tuple(sorted({*BATCHES, call.batch}))
    difference, relative = compared(path, content, network, sizes)
    if not relative <= TOLERANCE:
        raise SurgeryError(
            f"{path}: ONNX Runtime differs from the network by {difference:.3g}, {relative:.3g} of "
            "the largest entry of that output; the file was not written. Please report the network"
        )
    if int8 is not None:
        content = in_int8(content, call, int8)
        difference, _ = compared(path, content, network, sizes)
    write_atomically(path, content)
    return OnnxCheck(path, difference, sizes, len(content) / 1e6)


def compared(
    path: Path, content: bytes, network: Flat, sizes: Sequence[int]
) -> tuple[float, float]:
    """Run a file and its network, on the CPU, on batches of some sizes.

    Returns:
        Largest difference of an output, and largest difference relative to the largest finite
        entry of its output; infinite where only one of both is NaN or infinite.

    Raises:
        SurgeryError: an output has another shape.
    """
    runtime, differences, relative = OnnxNetwork(content), [0.0], [0.0]
    for size in sizes:
        with isolated_rng(torch.device("cpu"), size):  # zeros and the like would hide a difference
            call = of_size(network.call, size).map(lambda t: noise(t, torch.float32))
        tensors = list(call.tensors.values())
        wanted = outputs(network, tensors, size)
        for found, right in zip(tensors_in(runtime(*tensors)), wanted, strict=True):
            if found.shape != right.shape:
                raise SurgeryError(
                    f"{path}: ONNX Runtime gives the shape {tuple(found.shape)} for a batch of "
                    f"{size}, the network {tuple(right.shape)}: does its forward fix the size of "
                    "the batch?"
                )
            largest = float(right.double().nan_to_num(0.0, 0.0, 0.0).abs().max())
            relative.append(distance(right, found, least=max(largest, ROUNDING)))
            differences.append(relative[-1] * max(largest, ROUNDING))
    return max(differences), max(relative)


def on_cpu(tensor: Tensor) -> Tensor:
    """On the CPU; floating-point values in float32."""
    tensor = tensor.detach().cpu()
    return tensor.float() if tensor.is_floating_point() else tensor


def of_size(call: Call, size: int) -> Call:
    """The same call with another number of examples, which are repeated as needed."""
    batch = call.batch
    rows = torch.arange(size) % batch
    return call.map(lambda t: t[rows] if t.ndim and len(t) == batch else t)


def require_onnx() -> None:
    """Refuse early where a package is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"writing ONNX needs {', '.join(missing)}: pip install 'dsa_core[onnx]' brings them"
        )


def outputs(network: Flat, tensors: Sequence[Tensor], size: int) -> list[Tensor]:
    """What the network itself gives, or a SurgeryError that names the size of the batch."""
    try:
        with torch.no_grad():
            found: list[Tensor] = network(*tensors)
    except RuntimeError as error:
        raise SurgeryError(
            f"the network does not take a batch of {size}: {error}. Does its forward fix the "
            "size of the batch?"
        ) from error
    return found


def onnx_bytes(network: Flat) -> bytes:
    """Export a network in evaluation mode; the number of examples may be any.

    Raises:
        SurgeryError: the exporter or the checker refuses it.
    """
    import onnx

    rows, batch = torch.export.Dim("batch", min=1), network.call.batch
    first = network.call.tensors.values()
    shapes = tuple({0: rows} if t.ndim and len(t) == batch else {} for t in first)
    tensors = tuple(of_size(network.call, max(2, batch)).tensors.values())  # 1 is a constant to it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own insides
            program = torch.onnx.export(
                network,
                tensors,
                dynamo=True,
                dynamic_shapes=(shapes,),
                input_names=numbered("input", len(tensors)),
                output_names=numbered("output", len(network(*tensors))),
                verbose=False,
            )
        assert program is not None  # None only from the older exporter, dynamo=False
        proto = program.model_proto
        onnx.checker.check_model(proto, full_check=True)
        content: bytes = proto.SerializeToString()
    except Exception as error:  # the exporter has many kinds of error of its own
        raise SurgeryError(
            f"the ONNX exporter refuses the network: {type(error).__name__}: {error}"
        ) from error
    return content


def numbered(name: str, n: int) -> list[str]:
    """The name, or n numbered ones."""
    return [name] if n == 1 else [f"{name}{i}" for i in range(n)]


def onnx_session(content: bytes | str | Path, *, threads: int = 0):  # type: ignore[no-untyped-def]
    """Open an `onnxruntime.InferenceSession` on the CPU (untyped: the package is optional).

    Args:
        content: an ONNX file, or what is in it.
        threads: to run on; 0 for as many as torch takes.

    Raises:
        SurgeryError: the runtime refuses it.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # 1.32 reports its use unless told not to
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3  # errors only
    source = content if isinstance(content, bytes) else str(content)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common class of their own
        raise SurgeryError(f"ONNX Runtime refuses the network: {error}") from error


class OnnxNetwork(nn.Module):
    """An ONNX file as a network, to be scored as any other; it runs on the CPU, without weights."""

    def __init__(self, path: str | Path | bytes) -> None:
        """Open a file, or what is in it."""
        super().__init__()
        self.session = onnx_session(path)

    def forward(self, *tensors: Tensor) -> Any:
        """Its output on these tensors, in the order of its inputs, or a list of several."""
        names = [given.name for given in self.session.get_inputs()]
        feed = {n: on_cpu(t).numpy() for n, t in zip(names, tensors, strict=True)}
        found = [torch.from_numpy(array) for array in self.session.run(None, feed)]
        return found[0] if len(found) == 1 else found


def in_int8(content: bytes, example: Call, batches: Iterable[Any]) -> bytes:
    """Quantise the content of a float32 file: 8-bit weights, by output channel, and activations.

    The range of every activation is the smallest and largest value it takes on some batches, as
    they come in use, a few hundred examples in all; by ONNX Runtime's static quantisation.
    Operators are wrapped in QuantizeLinear and DequantizeLinear, which the runtime fuses into
    integer kernels.

    Args:
        content: of the file.
        example: what the network was exported with.
        batches: of inputs, with tensors in the same places.

    Raises:
        ConfigError: there is no batch, or one has tensors in other places.
        SurgeryError: ONNX Runtime refuses to quantise the network.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    given = [each.name for each in onnx_session(content).get_inputs()]
    names = dict(zip(example.tensors, given, strict=True))

    class Reader(CalibrationDataReader):
        """Batches as the runtime reads them."""

        left, read = iter(batches), 0

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.left, None)
            if batch is None:
                return None
            self.read += 1
            tensors = Call.of(batch).map(on_cpu).tensors
            if tensors.keys() != names.keys():
                raise ConfigError(f"int8: wanted batches of {[*names]}, got {[*tensors]}")
            return {names[place]: t.numpy() for place, t in tensors.items()}

    reader = Reader()
    with TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(content)
        types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        try:
            quant_pre_process(source, source, skip_symbolic_shape=True)
            quantize_static(source, target, reader, per_channel=True, **types)
        except ConfigError:
            raise
        except Exception as error:  # onnxruntime's errors have no common class of their own
            if not reader.read:
                raise ConfigError("int8: wanted some batches of inputs, got none") from error
            raise SurgeryError(f"ONNX Runtime cannot quantise the network: {error}") from error
        return target.read_bytes()
