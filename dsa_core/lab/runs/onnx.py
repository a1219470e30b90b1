"""Export the pruned network of a run as ONNX, into its folder and its record."""

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
    """Refuse a run with ONNX export if the packages are missing, before anything is trained."""
    require_onnx()


def with_onnx(context: RunContext, record: Record) -> Record:
    """Write `pruned.onnx` into the folder of the run, and its measurements into the record.

    The network is read from `pruned/`, so this also works for a run completed earlier.

    Raises:
        ConfigError: the run removed single weights, so there is no smaller network to export.
        SurgeryError: the network cannot be exported, or ONNX Runtime computes something else.
    """
    path: Path = context.folder / FILE
    if record.onnx is not None and path.exists():
        return record
    folder = context.folder / "pruned"
    if (folder / FACTS).exists():
        raise ConfigError(
            "onnx: this run removed single weights; as ONNX the network would be as large as the "
            "dense one. Use the sparse safetensors in pruned/"
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
