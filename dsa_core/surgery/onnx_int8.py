"""An ONNX file in 8-bit integers, quantised after training; and an ONNX file as a network."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, nn

from dsa_core.errors import ConfigError, SurgeryError
from dsa_core.example import Call
from dsa_core.surgery.onnx_file import on_cpu, onnx_session, run_session


class OnnxNetwork(nn.Module):
    """An ONNX file as a network, to be scored as any other; it runs on the CPU, and has no weights.

    Args:
        path: of the file.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.session = onnx_session(Path(path))

    def forward(self, *tensors: Tensor) -> Any:
        """Its output on these tensors, or a list of several."""
        found = run_session(self.session, *(on_cpu(t) for t in tensors))
        return found[0] if len(found) == 1 else found


def in_int8(content: bytes, batches: Iterable[Any]) -> bytes:
    """Quantise a network: 8-bit weights, by output channel, and 8-bit activations.

    The range of every activation is the smallest and largest value it takes on some batches, by
    ONNX Runtime's static quantisation; operators are wrapped in QuantizeLinear and
    DequantizeLinear, which the runtime fuses into integer kernels.

    Args:
        content: of an ONNX file in float32.
        batches: inputs as they come in use, a few hundred examples in all; in any form that `trace`
            takes.

    Raises:
        ConfigError: there is no batch.
        SurgeryError: ONNX Runtime refuses to quantise the network.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    names = [given.name for given in onnx_session(content).get_inputs()]

    class Reader(CalibrationDataReader):
        """Batches as the runtime reads them."""

        def __init__(self) -> None:
            self.feeds, self.read = feeds(names, batches), 0

        def get_next(self) -> dict[str, Any] | None:
            found = next(self.feeds, None)
            self.read += found is not None
            return found

    reader = Reader()
    with TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(content)
        types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        try:
            quant_pre_process(source, source, skip_symbolic_shape=True)
            quantize_static(source, target, reader, per_channel=True, **types)
        except Exception as error:  # onnxruntime's errors have no common class of their own
            if not reader.read:
                raise ConfigError("int8: wanted some batches of inputs, got none") from error
            raise SurgeryError(f"ONNX Runtime cannot quantise the network: {error}") from error
        return target.read_bytes()


def feeds(names: list[str], batches: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Batches as arrays by the name of the input."""
    for batch in batches:
        tensors = Call.of(batch).map(on_cpu).tensors.values()
        yield {name: t.numpy() for name, t in zip(names, tensors, strict=True)}
