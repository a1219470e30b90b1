"""One run, from a configuration to a record."""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from dsa_core.allocators import Allocation
from dsa_core.channels import ChannelGraph, trace
from dsa_core.check import count_macs
from dsa_core.cost import Cost, Resource
from dsa_core.data import Dataset, FolderDataset, classification, load
from dsa_core.experiment.config import RunConfig
from dsa_core.experiment.facts import device_name, git_commit, versions
from dsa_core.experiment.phases import (
    Workshop,
    cut_and_recalibrate,
    dense_network,
    find_allocation,
    fine_tune,
)
from dsa_core.files import write_atomically
from dsa_core.latency import latency
from dsa_core.record import (
    FILE,
    CostRecord,
    GroupRecord,
    Record,
    Scores,
    read_record,
    write_record,
)
from dsa_core.surgery import save, try_forward
from dsa_core.training import device_of

RESOURCES: tuple[Resource, ...] = ("macs", "params")
LATENCY_BATCH = 128


def run(
    config: RunConfig,
    out: Path,
    *,
    data_root: Path | None = None,
    progress: bool = True,
    force: bool = False,
) -> Record:
    """Run one configuration, or go on with it where it was left.

    Writes `out/<run>/` with config.json, record.json, history.json (keep ratios of every update),
    checkpoints/ and pruned/. The dense network goes to `out/dense/`, where other runs find it.

    Args:
        config: what to do.
        out: folder of this and other runs.
        data_root: folder of the datasets; None for DSA_DATA, else ./data.
        progress: show bars and say what happens.
        force: start anew, even if there is a record of this configuration.

    Returns:
        The record; read from the file if the run was complete already.
    """
    dataset = load(config.dataset, data_root)
    shop = Workshop(config, out, dataset, classification(), device_of(), progress)
    if (shop.folder / FILE).exists() and not force:
        shop.say(f"{config.method}: done before, {shop.folder}")
        return read_record(shop.folder / FILE)
    if force:
        for old in shop.checkpoints.glob("*.pt"):
            old.unlink()
    write_atomically(shop.folder / "config.json", config.model_dump_json(indent=1) + "\n")

    dense = dense_network(shop)
    example = example_of(dataset).to(shop.device)
    graph = trace(dense.model, example)
    model = copy.deepcopy(dense.model)
    allocation, masked_loss = find_allocation(shop, model, graph)
    pruned = cut_and_recalibrate(shop, model, graph, allocation)
    try_forward(pruned, example)
    before = shop.score(pruned)
    shop.say(f"{config.method}: {before:.2%} {shop.task.score_name} before fine-tuning")
    tuned = fine_tune(shop, pruned)
    after = shop.score(pruned)
    shop.say(f"{config.method}: {after:.2%} {shop.task.score_name} after fine-tuning")

    save(shop.folder / "pruned", pruned, graph, allocation.keep, name=config.model)
    costs = {r: cost_record(config, graph, allocation, pruned, example, r) for r in RESOURCES}
    x = some_examples(dataset).to(shop.device)
    record = Record(
        config_hash=config.hash,
        method=config.method,
        model=config.model,
        dataset=config.dataset,
        preset=config.preset_name,
        seed=config.seed,
        resource=config.resource,
        asked_ratio=config.ratio,
        budget_met=costs[config.resource].ratio <= config.ratio + 1e-9,
        costs=costs,
        score_name=shop.task.score_name,
        scores=Scores(dense=dense.score, pruned=before, fine_tuned=after, masked_loss=masked_loss),
        groups=group_records(graph, allocation),
        seconds={
            "dense": dense.seconds,
            "search": allocation.seconds,
            "fine_tune": tuned.seconds,
        },
        epochs={
            "dense": dense.epochs,
            "search": len(allocation.epochs),
            "fine_tune": len(tuned.history),
        },
        dense_reused=dense.reused,
        latency={"dense": latency(dense.model, x), "pruned": latency(pruned, x)},
        precision=tuned.precision,
        versions=versions(),
        device=device_name(shop.device),
        git_commit=git_commit(),
        notes=allocation.notes,
    )
    write_record(shop.folder, record)
    return record


def example_of(dataset: Dataset | FolderDataset) -> Tensor:
    """Zeros in the shape of one example, shape (1, C, H, W)."""
    x, _ = next(iter(dataset.batches("test", batch_size=1).epoch(0)))
    return torch.zeros_like(x)


def some_examples(dataset: Dataset | FolderDataset) -> Tensor:
    """A batch of test examples to time the networks on."""
    x, _ = next(iter(dataset.batches("test", batch_size=LATENCY_BATCH).epoch(0)))
    return x


def cost_record(
    config: RunConfig,
    graph: ChannelGraph,
    allocation: Allocation,
    pruned: nn.Module,
    example: Tensor,
    resource: Resource,
) -> CostRecord:
    """Asked, relaxed, predicted and counted cost of one resource."""
    if resource == "macs":
        counted = count_macs(pruned, example)
    else:
        counted = sum(p.numel() for p in pruned.parameters())
    return CostRecord(
        dense=Cost.of(graph, resource).dense,
        asked_ratio=config.ratio if config.resource == resource else None,
        relaxed_ratio=allocation.relaxed_cost(resource),
        whole=allocation.whole_cost(resource),
        counted=counted,
    )


def group_records(graph: ChannelGraph, allocation: Allocation) -> tuple[GroupRecord, ...]:
    """Kept channels of every group."""
    return tuple(
        GroupRecord(name=group.name, size=group.size, kept=kept, keep_ratio=ratio)
        for group, kept, ratio in zip(
            graph.prunable, allocation.counts.tolist(), allocation.keep_ratios.tolist(), strict=True
        )
    )
