"""The phases of a run after the dense network: the search, the cut, the fine-tuning."""

import json
from dataclasses import replace

from torch import Tensor, nn

from dsa_core.channels import ChannelGraph
from dsa_core.errors import ConfigError, DSAError
from dsa_core.files import write_atomically
from dsa_core.lab.runs.context import RunContext
from dsa_core.lab.runs.history import HISTORY, history_of
from dsa_core.masks import check_cut
from dsa_core.methods import ALLOCATORS, Allocation, SearchData
from dsa_core.ranking import importance
from dsa_core.surgery import prune, reconstruct, save
from dsa_core.surgery.sparse import held_zeros, save_sparse, zero_weights
from dsa_core.training import (
    FP32,
    TrainResult,
    evaluate,
    place_model,
    recalibrate_batchnorm,
    train,
)
from dsa_core.training.processes import average_buffers


def check_batches(context: RunContext) -> None:
    """Refuse, before anything is trained, batches that are larger than their data.

    Raises:
        ConfigError: names the setting.
    """
    preset, config = context.config.preset, context.config
    weights, ratios = context.halves()
    search, every = preset.search, None
    sizes: list[tuple[str, int, Tensor | None]] = [
        ("search.train.batch_size", search.train.batch_size, weights),
        ("search.ratio_batch_size", search.ratio_batch_size or search.train.batch_size, ratios),
        ("fine_tune.batch_size", preset.fine_tune.batch_size, every),
    ]
    if preset.dense is not None and config.weights is None:
        sizes.append(("dense.batch_size", preset.dense.batch_size, every))
    for name, size, indices in sizes:
        try:
            context.training("check", size, indices)
        except DSAError as error:
            raise ConfigError(f"{error}. It is the setting {name}") from error


def find_allocation(context: RunContext, model: nn.Module, graph: ChannelGraph) -> Allocation:
    """Run the search, which trains the model in place."""
    config, settings = context.config, context.config.preset.search
    weights, ratios = context.halves()
    size = settings.train.batch_size
    data = SearchData(
        weights=context.training("weights", size, weights),
        ratios=context.training("ratios", settings.ratio_batch_size or size, ratios),
        task=context.task,
        checkpoint=context.checkpoints / "search.pt",
        progress=context.progress,
        held_out=context.plain_batches(ratios),
    )
    context.print(
        f"{config.method}: searching for {config.ratio:.0%} of the dense {config.resource}"
    )
    allocation = ALLOCATORS[config.method](
        model, graph, config.budget, data, settings, seed=config.seed
    )
    write_atomically(context.folder / HISTORY, json.dumps(history_of(allocation)) + "\n")
    return allocation


def masked_loss(context: RunContext, pruned: nn.Module) -> float:
    """Loss on the held-out part of what the dense network computes under its final hard mask.

    The cut network computes just that, and its BatchNorm statistics are already renewed.
    """
    return evaluate(pruned, context.plain_batches(context.halves()[1]), context.task).loss


def ranked(context: RunContext, model: nn.Module, allocation: Allocation) -> Allocation:
    """The same counts, with channels ranked by the weights that are cut."""
    rank = context.config.preset.cut.rank
    if rank is None:
        return allocation
    return replace(allocation, importance=importance(model, allocation.graph, rank).cpu())


def cut_and_renew(
    context: RunContext, model: nn.Module, graph: ChannelGraph, allocation: Allocation
) -> nn.Module:
    """Prune; then refit the weights, or re-estimate the BatchNorm statistics."""
    preset = context.config.preset
    images = context.some_batches("reconstruction", preset.cut.reconstruct)
    pruned = prune(model, graph, allocation.keep)
    check_cut(model, graph, allocation.keep, pruned)
    if images:
        reconstruct(pruned, model, graph, allocation.keep, images, progress=context.progress)
    if allocation.weight_mask is not None:  # all channels stay, so that nothing was refitted
        pruned = zero_weights(pruned, allocation.weight_mask)
    elif images:
        return pruned
    batches = context.training("recalibration", preset.fine_tune.batch_size)
    recalibrate_batchnorm(pruned, batches, preset.norm_batches)
    average_buffers(pruned)  # each process has seen only its own rows
    return pruned


def fine_tune(context: RunContext, pruned: nn.Module, allocation: Allocation) -> TrainResult:
    """Train the pruned network in place, on the whole training set; removed weights stay zero."""
    settings = context.config.preset.fine_tune
    context.print(f"{context.config.method}: fine-tuning {settings.epochs} epochs")
    with held_zeros(pruned, allocation.weight_mask or {}):
        result = train(
            pruned,
            context.training("fine-tune", settings.batch_size),
            context.task,
            settings,
            seed=context.config.seed,
            checkpoint=context.checkpoints / "fine_tune.pt",
            progress=context.progress,
        )
    place_model(pruned, FP32)  # score and latency are measured in float32
    return result


def keep_pruned(
    context: RunContext, pruned: nn.Module, graph: ChannelGraph, allocation: Allocation
) -> None:
    """Write the pruned network to `pruned/`, with smaller or sparse tensors."""
    folder, name = context.folder / "pruned", context.config.model
    if allocation.weight_mask is None:
        save(folder, pruned, graph, allocation.keep, name=name)
    else:
        save_sparse(folder, pruned, graph, allocation.weight_mask, name=name)
