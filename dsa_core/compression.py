"""One call from a network and its loaders to a smaller network, for those without a loop.

result = compress(model, example, loader, budget=Budget(macs=0.5), loss=F.cross_entropy)
result.save("smaller")
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from dsa_core.allocation import Allocation
from dsa_core.budget import Budget, Cost
from dsa_core.errors import ConfigError
from dsa_core.pruner import Pruner
from dsa_core.scheme import Method
from dsa_core.surgery import export_onnx, save
from dsa_core.surgery.cut import duplicate
from dsa_core.training import (
    FP32,
    LoaderBatches,
    LossObjective,
    TrainConfig,
    as_loss,
    mode,
    recalibrate_batchnorm,
    train,
)
from dsa_core.training.optimiser import MakeOptimizer

SEARCH_SHARE = 0.5  # of the epochs; the rest fine-tunes the network that was cut
NORM_BATCHES = 50  # that renew BatchNorm's statistics after the cut
LR, CLIP_NORM = 0.02, 2.0  # of SGD: small steps, for a network that is trained already
Validate = Callable[[nn.Module], float]


@dataclass(frozen=True)
class Compressed:
    """What `compress` returns.

    Attributes:
        model: the smaller network, of the same classes, in evaluation mode.
        allocation: which channels stayed, and how that was found.
        scores: of `validate`: "dense", "cut" (before fine-tuning) and "fine_tuned"; empty without.
        example: what the network is called with.
    """

    model: nn.Module
    allocation: Allocation
    scores: dict[str, float]
    example: Any

    def save(self, folder: str | Path) -> Path:
        """Write architecture (JSON) and weights (safetensors).

        `dsa.load(folder, model)` reads them, where `model` is the dense network or its like.
        """
        found = self.allocation
        name = type(self.model).__name__
        return save(folder, self.model, found.graph, found.keep, name=name)

    def export_onnx(self, path: str | Path) -> Path:
        """Write the network as ONNX, compared with ONNX Runtime; the extra `onnx` brings it."""
        if not isinstance(self.example, Tensor):
            raise ConfigError(
                "export_onnx: the network takes one tensor; for others use torch.onnx.export on "
                f".model (the example is a {type(self.example).__name__})"
            )
        return export_onnx(self.model, Path(path), self.example).path

    def __repr__(self) -> str:
        found, scores = self.allocation, self.scores
        reached = (f"{r} {was(found, r)}" for r in ("macs", "params"))
        shown = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        asked = f"{found.budget.resource} {found.budget.ratio:.1%}"
        return (
            f"asked    {asked} of the dense network, by {found.method}\n"
            f"reached  {', '.join(reached)}\n"
            f"scores   {shown or 'none: no validate= was given'}"
        )


def was(found: Allocation, resource: Literal["macs", "params"]) -> str:
    """Dense and reached cost in millions, and the ratio."""
    cost = Cost.of(found.graph, resource)
    now = cost.at(found.counts)
    return f"{cost.dense / 1e6:.4g} M -> {now / 1e6:.4g} M ({now / cost.dense:.1%})"


def compress(
    model: nn.Module,
    example: Any,
    train_loader: Any,
    *,
    budget: Budget,
    loss: Any,
    epochs: int = 10,
    validate: Validate | None = None,
    method: Method | None = None,
    optimizer: MakeOptimizer | None = None,
    weights: Literal["searched", "dense"] = "searched",
    steps_per_epoch: int | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Compressed:
    """Search, cut, renew BatchNorm's statistics, fine-tune: a smaller network of the same classes.

    Works on a copy: the network that is given stays as it is. For a training loop of your own use
    `Pruner`.

    Args:
        model: a trained network, on its device.
        example: what it is called with, see `trace`.
        train_loader: batches of any kind: a DataLoader, a list, or a function that returns an
            iterator; tensors are moved to the model's device.
        budget: what the smaller network may cost.
        loss: `loss(model, batch)` -> scalar tensor; or a loss of torch such as `F.cross_entropy` or
            `nn.MSELoss()`, for batches (inputs ..., targets).
        epochs: in all; the first half searches, the rest fine-tunes.
        validate: `validate(model)` -> a score, of the dense, the cut and the fine-tuned network.
        method: how keep ratios are found; None for DSA.
        optimizer: makes an optimizer from a list of parameters, for both halves; its learning rate
            is the highest of a schedule that ends near 0. None for SGD at 0.02, clipped.
        weights: what is cut: the "searched" weights, or the "dense" ones as they were given.
        steps_per_epoch: batches of an epoch; needed for a loader that has no end.
        seed: of the masks, and of what the loader and the network draw.
        checkpoint: folder; a run that was killed goes on from its last epoch.
        progress: show bars.

    Returns:
        The smaller network, and what was found.

    Raises:
        ConfigError: an argument is of the wrong kind.
        TraceError, BudgetError: the network cannot be followed, or the budget not be met.
        TrainingError: the loss is not finite.
    """
    if not isinstance(epochs, int) or epochs < 1:
        raise ConfigError(f"epochs: wanted a whole number >= 1, got {epochs!r}")
    job = Job(
        objective=LossObjective(as_loss(loss)),
        batches=LoaderBatches(train_loader, steps=steps_per_epoch, progress=progress),
        optimizer=optimizer,
        folder=None if checkpoint is None else Path(checkpoint),
        seed=seed,
        progress=progress,
    )
    network, scores = duplicate(model), {}
    search_epochs = max(1, round(SEARCH_SHARE * epochs))
    steps = search_epochs * len(job.batches)
    pruner = Pruner(network, example, budget, steps=steps, method=method, seed=seed)
    if validate is not None:
        scores["dense"] = score(validate, network)
    job.train(network, "search", search_epochs, pruner)
    smaller = pruner.finish(weights=weights)
    job.renew_statistics(smaller)
    if validate is not None:
        scores["cut"] = score(validate, smaller)
    job.train(smaller, "fine-tune", epochs - search_epochs)
    if validate is not None:
        scores["fine_tuned"] = score(validate, smaller)
    return Compressed(smaller.eval(), pruner.allocation, scores, example)


@dataclass(frozen=True)
class Job:
    """What both halves of the work share."""

    objective: LossObjective
    batches: LoaderBatches
    optimizer: MakeOptimizer | None
    folder: Path | None
    seed: int
    progress: bool

    def train(
        self, model: nn.Module, phase: str, epochs: int, pruner: Pruner | None = None
    ) -> None:
        """Train a network in place, with a pruner or plainly; nothing for no epochs."""
        if not epochs:
            return
        if self.progress:
            print(f"{phase}: {epochs} epochs of {len(self.batches)} batches", flush=True)
        train(
            model,
            self.batches,
            self.objective,
            TrainConfig(
                epochs=epochs,
                lr=LR,
                clip_norm=CLIP_NORM,
                schedule="one_cycle" if pruner is None else "cosine",
                precision="fp32",
                channels_last=False,
            ),
            seed=self.seed,
            checkpoint=None if self.folder is None else self.folder / f"{phase}.pt",
            progress=self.progress,
            pruner=pruner,
            optimizer=self.optimizer,
        )

    def renew_statistics(self, model: nn.Module) -> None:
        """Estimate BatchNorm's statistics anew, on training batches."""
        n = min(NORM_BATCHES, len(self.batches))
        recalibrate_batchnorm(
            model, self.batches, n, run=lambda m, batch: self.objective.plain(m, batch, FP32)
        )


def score(validate: Validate, model: nn.Module) -> float:
    """What `validate` says of a network in evaluation mode; its modes come back."""
    with mode(model, training=False):
        return float(validate(model))
