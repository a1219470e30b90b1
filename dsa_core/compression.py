"""From a network and its training data to a smaller network, in one call.

    result = compress(model, example, train_loader, budget=Budget(macs=0.5), loss=loss, epochs=10)
    result.export_onnx("smaller.onnx")

It is the loop of `dsa_core.training` twice: a search with a `Pruner` attached, then, after the cut,
the fine-tuning. Whoever has a loop of their own attaches a `Pruner` to that.
"""

import warnings
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dsa_core.allocation import Allocation
from dsa_core.attachment import untouched
from dsa_core.budget import Budget, as_budget
from dsa_core.compressed import Compressed
from dsa_core.dsa import DSA
from dsa_core.errors import ConfigError, SurgeryError
from dsa_core.pruner import Pruner
from dsa_core.pruner_inputs import plain
from dsa_core.ranking import Importance
from dsa_core.scheme import Method
from dsa_core.surgery import reconstruct
from dsa_core.surgery.cut import duplicate, prune
from dsa_core.surgery.files import describe, digest
from dsa_core.surgery.onnx_file import BLOCKS
from dsa_core.surgery.sparse import held_zeros
from dsa_core.surgery.verify import some_channels
from dsa_core.tracing import trace
from dsa_core.training import (
    BatchSource,
    Factory,
    Feed,
    Loader,
    LossObjective,
    TrainConfig,
    TrainResult,
    device_of_model,
    isolated_rng,
    mode,
    recalibrate_batchnorm,
    state_tensors,
    step_seed,
    to_device,
    train,
)
from dsa_core.training.processes import average_buffers

TARGETS: dict[str, tuple[int, ...]] = {"torch": (), "onnx": BLOCKS}
SEARCH_STEPS = 400  # of a search whose weights train, in whole epochs, at most half of them
NORM_BATCHES = 50  # for BatchNorm's statistics after the cut
FROZEN_STEPS = 300  # of a search that trains no weight
FROZEN: dict[str, Any] = {"lr": 0.0, "schedule": "constant"}
DENSE_RANK: Importance = "l2"  # of the channels, where dense weights are cut
FIT_BATCHES = 8  # by which weights are refitted after such a search
SEARCH: dict[str, Any] = {"lr": 0.02, "schedule": "cosine"}
TUNE: dict[str, Any] = {"lr": 0.05, "schedule": "one_cycle"}


def compress(
    model: nn.Module,
    example: Any,
    train_loader: Iterable[Any] | Callable[[], Iterable[Any]] | BatchSource,
    *,
    budget: Budget,
    loss: Callable[..., Tensor],
    epochs: int = 10,
    validate: Callable[[nn.Module], float] | None = None,
    method: Method | None = None,
    optimizer: Factory | None = None,
    weights: Literal["searched", "dense"] | None = None,
    target: Literal["torch", "onnx"] = "torch",
    steps_per_epoch: int | None = None,
    checkpoint: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Compressed:
    """Make a network smaller: search which channels stay, cut the others out, fine-tune.

    It works on a copy: the network that is given stays as it is. With `epochs=0` no weight is
    trained: the search only finds how many channels stay, the dense weights are cut, and refitted
    so that every layer computes what it did before (`surgery.reconstruct`).

    Args:
        model: trained, on its device; batches are moved there.
        example: what the model is called with, as for `trace`.
        train_loader: a DataLoader, a list of batches, a function that yields them, or a
            `BatchSource`. One without a length is read once to count its batches, unless
            `steps_per_epoch` says how many.
        budget: what the smaller network may cost, such as `Budget(macs=0.5)`.
        loss: of (outputs, targets), such as `F.cross_entropy`, for batches (inputs, ..., targets);
            or a function whose first parameter is called `model`, of (model, batch), for any batch.
            Without labels, of its outputs and those of a frozen copy of the dense network.
        epochs: in all. The search takes as many as make some 400 steps, at most half of them (half
            for a method that follows no budget, none for one that learns nothing), the fine-tuning
            the others. 0: no training.
        validate: of a network in evaluation mode, without gradients; returns its score.
        method: how channels are chosen; None for DSA, see `dsa_core.methods`.
        optimizer: makes one of a list of parameters, and says its highest learning rate; None for
            SGD with momentum (0.02 falling in the search, 0.05 at most in the fine-tuning).
        weights: that are cut, ranked by their L2 norm: the "dense" ones, as they were before the
            search; or the "searched" ones, ranked as in the search. None for "dense", but for
            methods that remove channels by training ("ssl", "morphnet", ...). Without training
            always the dense ones.
        target: where the network will run. "onnx": a budget that names no divisor gets 16, or 8
            where 16 cannot meet it, as ONNX Runtime computes channels in such blocks.
        steps_per_epoch: batches of an epoch, for a loader without a length or an end.
        checkpoint: folder for one after every epoch: the same call resumes from there. It ends with
            the same bits if the order of the batches depends on torch's random numbers alone.
        seed: of masks, dropout, and the order of a DataLoader that has no generator of its own.
        progress: show bars.

    Raises:
        ConfigError: an argument is of the wrong kind; the message shows the right one.
        TraceError, BudgetError, SurgeryError, TrainingError, DataError: as the parts raise them.

    Source: Ning et al., DSA, ECCV 2020 (arXiv:2004.02164).
    """
    _check_epochs(epochs)
    if target not in TARGETS:
        raise ConfigError(f"target: wanted one of {', '.join(TARGETS)}, got {target!r}")
    method = DSA() if method is None else method
    weights = _source(weights, method, epochs)
    dense, objective = plain(model), LossObjective(loss)
    batches = _feed(train_loader, steps_per_epoch, progress, device_of_model(dense))
    folder = None if checkpoint is None else Path(checkpoint)
    start = digest({k: describe(v.cpu()) for k, v in state_tensors(dense).items()})
    work = duplicate(dense)
    _try_first_batch(objective, work, batches)
    search = _search_settings(epochs, len(batches), method)
    steps = search["epochs"] * len(batches)
    steps = steps if epochs else min(FROZEN_STEPS, steps)
    graph = trace(work, example)
    budget = as_budget(budget).in_blocks(graph, TARGETS[target])
    pruner = Pruner(work, graph, budget, steps=steps, method=method, seed=seed)
    _check_method(pruner, epochs)
    _try_cut(pruner, objective, batches)
    scores = {} if validate is None else {"dense": _score(validate, work)}

    shared: dict[str, Any] = {
        "seed": seed,
        "progress": progress,
        "optimizer": optimizer if epochs else None,
        "fingerprint": {"starting weights": start},
    }

    def phase(name: str, network: nn.Module, settings: dict[str, Any], **more: Any) -> TrainResult:
        file, config = None if folder is None else folder / f"{name}.pt", TrainConfig(**settings)
        more = {"checkpoint": file, "phase": name, **shared, **more}
        return train(network, batches, objective, config, **more)

    searched = phase("search", work, search, pruner=pruner, stop=lambda: pruner.steps_done >= steps)
    smaller = pruner.finish(weights=weights, rank=None if weights == "searched" else DENSE_RANK)
    if epochs or pruner.allocation.weight_mask is not None:  # a refit would fill the zeros
        _recalibrate(smaller, objective, batches, seed)
    else:
        _refit(smaller, dense, pruner.allocation, objective, batches, seed=seed, progress=progress)
    if validate is not None:
        scores["cut"] = _score(validate, smaller)
    with held_zeros(smaller, pruner.allocation.weight_mask or {}):
        left = max(0, epochs - search["epochs"])
        cut = {"cut": digest([weights, describe(pruner.allocation.keep)])}
        own = shared["fingerprint"] | cut
        tuned = phase("fine-tune", smaller, {**TUNE, "epochs": left}, fingerprint=own)
    if epochs and validate is not None:
        scores["fine_tuned"] = _score(validate, smaller)
    history = {"search": searched.history, "fine-tune": tuned.history}
    return Compressed(smaller.eval(), pruner.allocation, scores, example, history)


def _check_epochs(epochs: int) -> None:
    """Refuse a number of epochs that has no meaning."""
    whole = isinstance(epochs, int) and not isinstance(epochs, bool)
    if not whole or epochs < 0 or epochs == 1:
        raise ConfigError(
            "epochs: wanted a whole number >= 2, one to search and one to tune, or 0 for no "
            f"training; got {epochs!r}"
        )


def _source(weights: Any, method: Method, epochs: int) -> Literal["searched", "dense"]:
    """Which weights are cut."""
    if weights not in (None, "searched", "dense"):
        raise ConfigError(f'weights: wanted "searched", "dense" or None, got {weights!r}')
    trained = weights == "searched" or not (weights or method.follows_budget)
    return "searched" if epochs and trained else "dense"


def _search_settings(epochs: int, batches: int, method: Method) -> dict[str, Any]:
    """How the weights train in the search; `batches` is the length of an epoch."""
    if not method.learns:
        return {**FROZEN, "epochs": 0}
    if not epochs:
        return {**FROZEN, "epochs": -(-FROZEN_STEPS // batches)}
    wanted = max(1, round(SEARCH_STEPS / batches)) if method.follows_budget else epochs
    return {**SEARCH, "epochs": max(1, min(wanted, epochs // 2))}


def _feed(given: Any, steps_per_epoch: int | None, progress: bool, device: torch.device) -> Feed:
    """The user's batches as epochs."""
    if isinstance(given, BatchSource):
        return given
    with isolated_rng(device):  # a DataLoader draws when it is read
        return Loader(given, steps_per_epoch, progress=progress)


def _try_first_batch(objective: LossObjective, model: nn.Module, batches: Feed) -> None:
    """Run the loss on one batch; network and random numbers stay as they were."""
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError(
            "model: all its weights are frozen; call model.requires_grad_(True) first. With "
            "epochs=0 none of them is trained"
        )
    device = device_of_model(model)
    with isolated_rng(device), untouched(model):
        objective.try_on(model, to_device(next(batches.forever()), device))


def _try_cut(pruner: Pruner, objective: LossObjective, batches: Feed) -> None:
    """Run the loss, in training mode, on a cut network: tracing follows evaluation alone."""
    graph, device = pruner.graph, pruner.problem.device
    pairs = zip(graph.prunable, pruner.problem.floors.tolist(), strict=True)
    keep = some_channels(graph, {group.name for group, floor in pairs if floor < 1})
    with isolated_rng(device):
        smaller, batch = prune(pruner.model, graph, keep), next(batches.forever())
        try:
            objective.loss(smaller.train(), to_device(batch, device))
        except Exception as error:
            raise SurgeryError(
                f"the loss cannot run on a cut network: {type(error).__name__}: {error}. What runs "
                f"in training only is not cut ({', '.join(graph.unused) or 'no weight of it'}): "
                "remove that branch, or keep the groups that it reads by floors of 1"
            ) from error


def _check_method(pruner: Pruner, epochs: int) -> None:
    """Refuse a method that asks for held-out batches, or for weights that train."""
    method = pruner.problem.method
    if not (epochs or method.follows_budget):
        raise ConfigError(
            f"epochs=0: {method.label} with these settings needs epochs in which the weights train"
        )
    if pruner.scheme.held_out:
        raise ConfigError(
            f"method: {method.label} with these settings learns from held-out "
            "batches, of which compress has none: take DSA(estimator='free'), or a Pruner"
        )


def _recalibrate(model: nn.Module, objective: LossObjective, batches: Feed, seed: int) -> None:
    """Renew BatchNorm's statistics, which are still those of the dense network."""
    with isolated_rng(device_of_model(model), step_seed(seed, "recalibration")):
        recalibrate_batchnorm(model, batches, min(NORM_BATCHES, len(batches)), run=objective.loss)
    average_buffers(model)


def _refit(
    pruned: nn.Module,
    dense: nn.Module,
    found: Allocation,
    objective: LossObjective,
    batches: Feed,
    *,
    seed: int,
    progress: bool,
) -> None:
    """Refit the weights by some training batches, of one pass at the most."""
    device, n = device_of_model(pruned), min(FIT_BATCHES, len(batches))
    with isolated_rng(device, step_seed(seed, "reconstruction")), untouched(dense):
        some = [to_device(batch, device) for batch in islice(batches.forever(), n)]
        run, graph = objective.loss, found.graph
        fits = reconstruct(pruned, dense, graph, found.keep, some, run=run, progress=progress)
    if not fits and bool(found.keep.logical_not().any()):
        warnings.warn(
            "epochs=0: no layer could be refitted, as each runs more than once in the loss or "
            "shares its weights: BatchNorm's statistics are renewed instead",
            stacklevel=3,
        )
        _recalibrate(pruned, objective, batches, seed)


def _score(validate: Callable[[nn.Module], float], model: nn.Module) -> float:
    """The user's score of a network."""
    with mode(model, training=False), torch.no_grad():
        found = validate(model)
    try:
        return float(found)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"validate: wanted a function of a network that returns a number, got {found!r}"
        ) from error
