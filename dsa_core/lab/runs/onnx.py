"""Export the pruned network of a run as ONNX, into its folder and its record."""

from pathlib import Path

from torch import Tensor, nn

from dsa_core.errors import ConfigError
from dsa_core.lab import models
from dsa_core.lab.latency import onnx_latency
from dsa_core.lab.record import OnnxRecord, Record
from dsa_core.lab.record_files import write_record
from dsa_core.lab.runs.context import RunContext
from dsa_core.methods import DTPWeight
from dsa_core.surgery import OnnxNetwork, export_onnx, load
from dsa_core.surgery.onnx_file import ADVICE, BLOCKS, require_onnx
from dsa_core.training.processes import process_group

FILE, INT8_FILE = "pruned.onnx", "pruned.int8.onnx"
INT8_IMAGES = 512  # training images that say how large activations are


def check_onnx(context: RunContext, *, int8: bool) -> None:
    """Raise ConfigError, before anything is trained, where ONNX cannot be written."""
    require_onnx()
    if context.config.method == DTPWeight.label:
        raise ConfigError(
            f"onnx: {DTPWeight.label} removes single weights; written as ONNX the network would be "
            "as large as the dense one. Take it from pruned/ as sparse safetensors"
        )
    if int8 and not process_group().is_single:
        raise ConfigError(
            "int8: it is written and scored by one process; when the run is complete, give the "
            "same command to one"
        )
    if context.config.divisor < min(BLOCKS):
        context.print(f"{ADVICE}. This run has --divisor {context.config.divisor}")


def with_onnx(context: RunContext, record: Record, *, int8: bool) -> Record:
    """Write `pruned.onnx` into the run's folder, and what was measured into its record.

    A run that was complete before gets it too: the network is read from `pruned/`. With int8,
    `pruned.int8.onnx` is written too, and scored.

    Raises:
        SurgeryError: the network cannot be exported, or the runtime computes something else.
    """
    known = record.onnx if (context.folder / FILE).exists() else None
    has_int8 = known is not None and known.int8 and (context.folder / INT8_FILE).exists()
    if known and (has_int8 or not int8):
        return record
    dense = models.build(context.config.model, num_classes=context.dataset.num_classes)
    network = load(context.folder / "pruned", dense)
    found = known or written(context, network)
    if int8:
        images = context.some_batches("int8", min(INT8_IMAGES, context.dataset.count("train")))
        eighth = written(context, network, images)
        score = context.measure(OnnxNetwork(context.folder / INT8_FILE)).score
        found = found.model_copy(update={"int8": eighth.model_copy(update={"score": score})})
        context.print(f"{context.config.method}: {context.task.show(score)} in 8-bit integers")
    record = record.model_copy(update={"onnx": found})
    write_record(context.folder, record)
    return record


def written(
    context: RunContext, network: nn.Module, int8: list[Tensor] | None = None
) -> OnnxRecord:
    """Write a network into the run's folder, and time it."""
    path: Path = context.folder / (FILE if int8 is None else INT8_FILE)
    x = context.some_examples()
    check = export_onnx(network, path, x, int8=int8)
    return OnnxRecord(
        file=path.name,
        megabytes=check.megabytes,
        max_abs_diff=check.max_abs_diff,
        latency=onnx_latency(path, x),
    )
