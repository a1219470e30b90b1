"""One run, from a configuration to a record."""

import copy
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from dsa_core.channels import ChannelGraph
from dsa_core.errors import ConfigError
from dsa_core.files import EPOCHS, write_atomically
from dsa_core.lab.data import load
from dsa_core.lab.device import device_of, image_readers
from dsa_core.lab.record import Record
from dsa_core.lab.record_files import FILE, read_record, write_record
from dsa_core.lab.runs.config import RunConfig
from dsa_core.lab.runs.context import RunContext
from dsa_core.lab.runs.dense import check_data, dense_network, load_start_weights
from dsa_core.lab.runs.folder import (
    CONFIG,
    alone_in,
    check_config,
    check_folder,
    check_still_there,
    disk_may_be_full,
)
from dsa_core.lab.runs.onnx import check_onnx, with_onnx
from dsa_core.lab.runs.outcome import Outcome, record_of
from dsa_core.lab.runs.phases import (
    check_batches,
    cut_and_renew,
    find_allocation,
    fine_tune,
    keep_pruned,
    masked_loss,
    ranked,
)
from dsa_core.lab.runs.start import slow_format, start
from dsa_core.surgery import try_forward
from dsa_core.training import EvalResult
from dsa_core.training.processes import agreed, process_group, wait
from dsa_core.training.stopwatch import Stopwatch


def run(
    config: RunConfig,
    out: Path,
    *,
    folder: Path | None = None,
    data_root: Path | None = None,
    weights: Path | None = None,
    progress: bool = True,
    force: bool = False,
    onnx: bool = False,
    int8: bool = False,
    workers: int | None = None,
) -> Record:
    """Run one configuration, resume it, or read the record of a complete run.

    Writes `out/<run>/`, or `folder`, with config.json, record.json, history.json (keep ratios of
    every update), checkpoints/ and pruned/. The dense network goes to `out/dense/`, where other
    runs find it. In a group of processes (`training.processes`) the main one writes the record.

    Args:
        config: what to run.
        out: folder of all runs.
        folder: of this run, to override `out / config.folder`.
        data_root: folder of the datasets; None for DSA_DATA, else ./data.
        weights: file of the dense weights named by `config.weights`; not needed to resume, as
            `out/dense/` has a copy.
        progress: show bars and print messages.
        force: search and fine-tune again, even if there is a record of this configuration; the
            dense network is reused.
        onnx: also write the pruned network as `pruned.onnx`, compared and timed in ONNX Runtime.
        workers: processes per rank that read and decode the images of `folder:PATH`; None for one
            per processor of the rank, at most 8. They are not part of the configuration: they
            change no number, and a run resumes with any count.

    Raises:
        ConfigError, DataError, TraceError, BudgetError: before anything is trained, for example
            because `folder` holds a record of another configuration.
        ConfigError: another process is working in the folder, or its config.json differs.
        TrainingError: a loss is not finite, a checkpoint does not fit, the disk is full, or the
            folder was removed meanwhile.
        KeyboardInterrupt: after Ctrl-C; the same call resumes.
    """
    check_folder(folder or out)
    device = device_of()  # joins the process group, if there is one
    readers = image_readers() if workers is None else workers
    dataset = load(config.dataset, data_root, workers=readers)
    context = RunContext(
        config, out, dataset, device, progress and process_group().is_main, folder, weights
    )
    check_data(context)
    onnx = onnx or int8
    if onnx:
        check_onnx(context, int8=int8)
    if not force:
        check_config(context.folder, config)
    with disk_may_be_full(context.folder):
        done = not force and agreed((context.folder / FILE).exists())
        if done:
            context.print(f"{config.method}: done before, {context.folder}")
        record = record_there(context) if done else run_phases(context, force=force)
        if onnx:
            with alone_in(context.folder):
                if process_group().is_main:
                    record = with_onnx(context, record, int8=int8)
    wait()
    return record


def dry_run(configs: Sequence[RunConfig], data_root: Path | None = None) -> None:
    """Refuse what `run` would refuse of some configurations of one dataset before anything is
    trained, see `start`."""
    dataset = load(configs[0].dataset, data_root)
    for config in configs:
        start(config, dataset, RunContext(config, Path(), dataset, device_of(), False).example)


def record_there(context: RunContext) -> Record:
    """The record left by an earlier call; ConfigError if it is of another configuration."""
    record = read_record(context.folder / FILE)
    if record.config_hash != context.config.hash:
        raise ConfigError(
            f"{context.folder} holds a run of another configuration ({record.config_hash}, this is "
            f"{context.config.hash}): give this one another folder, or remove that"
        )
    return record


def remove_earlier(context: RunContext) -> None:
    """Remove the record and the checkpoints of an earlier run of the same configuration."""
    wait()
    saved = [each for end in (".pt", EPOCHS) for each in context.checkpoints.glob(f"*{end}")]
    for old in [context.folder / FILE, *saved]:
        old.unlink(missing_ok=True)
    wait()


def run_phases(context: RunContext, *, force: bool = False) -> Record:
    """Check everything first; then run the phases with the folder locked, and write the record."""
    model, graph = start(context.config, context.dataset, context.example)
    if context.progress and (advice := slow_format(context.config, model, context.example)):
        context.print(advice)
    load_start_weights(context, model)
    check_batches(context)
    with alone_in(context.folder):
        if force:
            remove_earlier(context)
        elif agreed((context.folder / FILE).exists()):  # written by a process that has just ended
            return record_there(context)
        text = context.config.model_dump_json(indent=1)
        write_atomically(context.folder / CONFIG, text + "\n")
        record = all_phases(context, model, graph)
        if process_group().is_main:
            check_still_there(context.folder)
            write_record(context.folder, record)
    return record


def all_phases(context: RunContext, model: nn.Module, graph: ChannelGraph) -> Record:
    """Run the phases in order; each resumes from its own checkpoint."""
    dense = dense_network(context, model)
    searched = copy.deepcopy(dense.model)
    allocation = find_allocation(context, searched, graph)
    source = dense.model if context.config.preset.cut.weights == "dense" else searched
    allocation = ranked(context, source, allocation)
    watch = Stopwatch()
    pruned = cut_and_renew(context, source, graph, allocation)
    cutting = watch.read()
    try_forward(pruned, context.example)
    loss = masked_loss(context, pruned)
    before = context.measure(pruned)
    print_score(context, before, "before fine-tuning")
    tuned = fine_tune(context, pruned, allocation)
    after = context.measure(pruned)
    print_score(context, after, "after fine-tuning")
    keep_pruned(context, pruned, graph, allocation)
    outcome = Outcome(dense, allocation, loss, pruned, before, after, tuned, cutting)
    return record_of(context, outcome)


def print_score(context: RunContext, found: EvalResult, when: str) -> None:
    """Print a result on the test set."""
    score = f"{context.task.show(found.score)} {context.task.judged_by}"
    others = "".join(f", {name} {value:.4f}" for name, value in found.extra.items())
    context.print(f"{context.config.method}: {score}{others} {when}")
