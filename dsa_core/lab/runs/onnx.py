"""The pruned network of a run as ONNX, beside its other files and in its record."""

from pathlib import Path

from dsa_core.errors import ConfigError
from dsa_core.lab import models
from dsa_core.lab.latency import onnx_latency
from dsa_core.lab.record import OnnxRecord, Record
from dsa_core.lab.record_files import write_record
from dsa_core.lab.runs.context import RunContext
from dsa_core.lab.runs.outcome import some_examples
from dsa_core.surgery import export_onnx, load
from dsa_core.surgery.onnx_file import require_onnx
from dsa_core.surgery.sparse import FACTS

FILE = "pruned.onnx"


def check_onnx() -> None:
    """Refuse a run that asks for ONNX where it cannot be written, before anything is trained."""
    require_onnx()


def with_onnx(context: RunContext, record: Record) -> Record:
    """Write `pruned.onnx` into the run's folder, and what was measured into its record.

    A run that was complete before gets it too: the network is read from `pruned/`.

    Raises:
        ConfigError: the run removed single weights; there is no smaller network to write.
        SurgeryError: the network cannot be exported, or the runtime computes something else.
    """
    path: Path = context.folder / FILE
    if record.onnx is not None and path.exists():
        return record
    folder = context.folder / "pruned"
    if (folder / FACTS).exists():
        raise ConfigError(
            "onnx: this run removed single weights; written as ONNX the network would be as large "
            "as the dense one. Take it from pruned/ as sparse safetensors"
        )
    dense = models.build(context.config.model, num_classes=context.dataset.num_classes)
    network = load(folder, dense)
    x = some_examples(context.dataset, context.example[0, 0].numel())
    check = export_onnx(network, path, x)
    found = OnnxRecord(
        file=FILE,
        megabytes=check.megabytes,
        max_abs_diff=check.max_abs_diff,
        latency=onnx_latency(path, x),
    )
    record = record.model_copy(update={"onnx": found})
    write_record(context.folder, record)
    return record
