"""The outcome of a run, and its record."""

from dataclasses import dataclass

from torch import nn

from dsa_core.budget import NS_PER_MS, Cost, Resource
from dsa_core.lab.latency import Latency, latencies
from dsa_core.lab.machine import device_name, git_commit, versions
from dsa_core.lab.record import PHASES, CostRecord, GroupRecord, Record, Scores
from dsa_core.lab.runs.context import RunContext
from dsa_core.lab.runs.dense import DenseNetwork
from dsa_core.lab.runs.history import history_of, search_record
from dsa_core.methods import Allocation
from dsa_core.surgery.verify import count_macs
from dsa_core.training import FP32, EvalResult, Precision, TrainResult, place_model


@dataclass(frozen=True)
class Outcome:
    """The results of the phases of a run.

    Attributes:
        dense: the starting network.
        allocation: result of the search.
        masked_loss: loss on the held-out part under the final hard mask, statistics renewed.
        pruned: the cut and fine-tuned network.
        before, after: results on the test set before and after fine-tuning.
        tuned: result of the fine-tuning.
        cutting: seconds spent on the cut, which count as search.
    """

    dense: DenseNetwork
    allocation: Allocation
    masked_loss: float
    pruned: nn.Module
    before: EvalResult
    after: EvalResult
    tuned: TrainResult
    cutting: dict[str, float]


def record_of(context: RunContext, outcome: Outcome) -> Record:
    """The record of a run; costs are counted and latencies measured here."""
    config, dense, found = context.config, outcome.dense, outcome.allocation
    timed = time_both(context, outcome)
    costs = costs_of(context, outcome, timed)
    epochs = dense.epochs, len(found.epochs), len(outcome.tuned.history)
    return Record(
        config_hash=config.hash,
        series=config.series,
        method=config.method,
        model=config.model,
        dataset=config.dataset,
        preset=config.preset_name,
        seed=config.seed,
        resource=config.resource,
        asked_ratio=config.ratio,
        also_asked=config.also,
        floors=config.floors,
        divisor=config.divisor,
        budget_met=all(costs[r].ratio <= ratio + 1e-9 for r, ratio in config.asked.items()),
        costs=costs,
        score_name=context.task.judged_by,
        score_unit=context.task.unit,
        scores=Scores(
            dense=dense.score,
            pruned=outcome.before.score,
            fine_tuned=outcome.after.score,
            masked_loss=outcome.masked_loss,
        ),
        extra_scores=extra_scores(outcome),
        groups=group_records(found),
        seconds=spent(outcome, "seconds"),
        processor_seconds=spent(outcome, "processor_seconds"),
        epochs=dict(zip(PHASES, epochs, strict=True)),
        trials=found.trials,
        dense_reused=dense.reused,
        latency=timed,
        precision=outcome.tuned.precision,
        versions=versions(),
        device=device_name(context.device),
        git_commit=git_commit(),
        notes=found.notes
        | {f"cut_{k}": v for k, v in config.preset.cut.model_dump(exclude_defaults=True).items()}
        | ({"weights": config.weights} if config.weights else {}),
        search=search_record(history_of(found), found.graph),
        config=config.model_dump(mode="json"),
    )


def spent(outcome: Outcome, unit: str) -> dict[str, float]:
    """Seconds or CPU seconds of every phase; the cut counts as search."""
    results = (outcome.dense, outcome.allocation, outcome.tuned)
    found = {phase: getattr(result, unit) for phase, result in zip(PHASES, results, strict=True)}
    return found | {"search": found["search"] + outcome.cutting[unit]}


def extra_scores(outcome: Outcome) -> dict[str, dict[str, float]]:
    """The task's other metrics, by name, then by state of the network."""
    states = {"dense": outcome.dense.extra, "pruned": outcome.before.extra}
    states["fine_tuned"] = outcome.after.extra
    return {
        name: {state: found[name] for state, found in states.items() if name in found}
        for name in outcome.after.extra
    }


def time_both(context: RunContext, outcome: Outcome) -> dict[str, Latency]:
    """Time the dense and the pruned network in alternation, in the calibration's format if any."""
    precision, n = FP32, None
    if (found := context.config.calibration) is not None:
        precision, n = Precision(found.precision, found.channels_last), found.shape[0]
    x = context.some_examples(n).to(context.device)
    both = [outcome.dense.model, outcome.pruned]
    for model in both:
        place_model(model, precision)
    dense, pruned = latencies(both, x, precision=precision)
    for model in both:
        place_model(model, FP32)
    return {"dense": dense, "pruned": pruned}


def costs_of(
    context: RunContext, outcome: Outcome, timed: dict[str, Latency]
) -> dict[Resource, CostRecord]:
    """Asked, relaxed, predicted and counted cost of each resource; latency is by the clock."""
    config, found = context.config, outcome.allocation
    pairs: dict[Resource, tuple[int, int]] = {  # dense, counted on the pruned network
        "macs": (Cost.of(found.graph, "macs").dense, count_macs(outcome.pruned, context.example)),
        "params": (Cost.of(found.graph, "params").dense, count_parameters(outcome.pruned, found)),
    }
    if config.calibration is not None:
        dense, pruned = (round(NS_PER_MS * timed[name].median_ms) for name in ("dense", "pruned"))
        pairs["latency"] = dense, pruned
    return {
        resource: CostRecord(
            dense=dense,
            asked_ratio=config.asked.get(resource),
            relaxed_ratio=found.relaxed_cost(resource),
            whole=found.whole_cost(resource),
            counted=counted,
        )
        for resource, (dense, counted) in pairs.items()
    }


def count_parameters(pruned: nn.Module, allocation: Allocation) -> int:
    """Count the parameters of a pruned network, without removed single weights."""
    removed = allocation.weight_mask or {}
    zeros = sum(
        int((p.detach().cpu() == 0)[~removed[name]].sum())
        for name, p in pruned.named_parameters()
        if name in removed
    )
    return sum(p.numel() for p in pruned.parameters()) - zeros


def group_records(allocation: Allocation) -> tuple[GroupRecord, ...]:
    """Kept channels of every group."""
    groups, counts = allocation.graph.prunable, allocation.counts.tolist()
    return tuple(
        GroupRecord(name=group.name, size=group.size, kept=kept, keep_ratio=ratio)
        for group, kept, ratio in zip(groups, counts, allocation.keep_ratios.tolist(), strict=True)
    )
