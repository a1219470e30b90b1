"""Train a network under masks while its keep ratios move to a budget: the loop that allocators share."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.func import functional_call

from dsa_core.admm import (
    KeepRatioOptimizer,
    PaperSettings,
    PricedSettings,
    budget_at,
    sharpness_at,
    step_scale_at,
)
from dsa_core.allocators.allocation import Allocation, Update
from dsa_core.channels import ChannelGraph
from dsa_core.cost import Budget, Cost, round_to_channels
from dsa_core.data import BatchSource, Task, step_seed
from dsa_core.errors import TrainingError
from dsa_core.kernels import inexactness
from dsa_core.masks import (
    Estimator,
    Importance,
    estimator_mask,
    importance,
    keep_probs,
    masked_parameters,
    sample_mask,
)
from dsa_core.training import (
    Meter,
    Precision,
    TrainConfig,
    autocast,
    choose_precision,
    device_of_model,
    load_checkpoint,
    lr_at,
    make_sgd,
    place,
    place_model,
    save_checkpoint,
    set_lr,
    shapes_fingerprint,
)

OnStep = Callable[[Update], bool | None]


class SearchConfig(BaseModel):
    """How an allocator searches; frozen, and an unknown name is an error.

    Attributes:
        train: the weights' training; `train.epochs` counts the search and its warm-up.
        warmup_epochs: plain epochs before the first mask (20 in the paper, from random weights).
        optimizer: of the keep ratios, "priced" or "paper" (see `admm`).
        settings: of that optimiser; None for its defaults.
        estimator: of the keep-ratio gradient.
        importance: what ranks the channels of a group.
        ratio_every: weight steps for each update of the keep ratios (20 in the paper).
        sharpness_first, sharpness_last: beta2 at the ends of the search, geometric in between.
        anneal_fraction: share of the search in which the budget falls from the dense cost to what is
            asked; 0 asks for it at once, as the paper does. The rest trains at the fixed budget.
        prob_floor: smallest keep probability while weights train (0.01 in the authors' released code).
        fix_when_met: change no keep ratio once the budget is met (the paper's flow).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: TrainConfig
    warmup_epochs: int = Field(default=0, ge=0)
    optimizer: str = "priced"
    settings: PricedSettings | PaperSettings | None = None
    estimator: Estimator = "mean_field"
    importance: Importance = "gamma_first"
    ratio_every: int = Field(default=2, ge=1)
    sharpness_first: float = Field(default=5.0, gt=0)
    sharpness_last: float = Field(default=20.0, gt=0)
    anneal_fraction: float = Field(default=0.6, ge=0, le=1)
    prob_floor: float = Field(default=0.0, ge=0, lt=1)
    fix_when_met: bool = False


@dataclass(frozen=True)
class SearchData:
    """What a search learns from: DSA gives 90 % of the training set to the weights, 10 % to the ratios.

    Attributes:
        weights: batches that train the weights.
        ratios: batches that give the keep ratios their gradient.
        task: loss and score.
        checkpoint: file to save to after each epoch and to resume from, or None.
        progress: show a bar.
    """

    weights: BatchSource
    ratios: BatchSource
    task: Task
    checkpoint: Path | None = None
    progress: bool = True


def search(
    model: nn.Module,
    graph: ChannelGraph,
    budget: Budget,
    data: SearchData,
    config: SearchConfig,
    *,
    method: str,
    optimizer: KeepRatioOptimizer,
    use_gradient: bool,
    seed: int,
    on_step: OnStep | None = None,
) -> Allocation:
    """Train the weights under sampled masks, and move the keep ratios down to the budget.

    First order, as in DARTS: the keep ratios' gradient is that of the validation loss at the present
    weights. The network is trained in place. All randomness is a function of (seed, step), so that a run
    that was killed goes on from its checkpoint to the same bits.

    Args:
        model: dense network, trained or not, on its device.
        graph: of the model.
        budget: to reach.
        data: see `SearchData`.
        config: see `SearchConfig`.
        method: name for the record.
        optimizer: moves the keep ratios.
        use_gradient: whether it wants a gradient; without one no validation batch is read.
        seed: of the masks.
        on_step: called with every update; True ends the search at once.

    Raises:
        BudgetError: the budget is below the cost of the floors.
        TrainingError: the loss is not finite, or the checkpoint belongs to another run.
    """
    run = SearchRun(
        model,
        graph,
        budget,
        data,
        config,
        optimizer=optimizer,
        use_gradient=use_gradient,
        seed=seed,
    )
    run.restore(method)
    stopped = False
    try:
        while run.epoch < config.train.epochs and not stopped:
            stopped = run.train_epoch(on_step)
            if not stopped:
                run.save(method)
    finally:
        run.meter.close()
    return run.allocation(method, stopped)


class SearchRun:
    """The state of one search."""

    def __init__(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        budget: Budget,
        data: SearchData,
        config: SearchConfig,
        *,
        optimizer: KeepRatioOptimizer,
        use_gradient: bool,
        seed: int,
    ) -> None:
        self.model, self.graph, self.budget, self.data, self.config = (
            model,
            graph,
            budget,
            data,
            config,
        )
        self.optimizer, self.use_gradient, self.seed = optimizer, use_gradient, seed
        self.cost = Cost.of(graph, budget.resource)
        budget.check(self.cost)
        self.device = device_of_model(model)
        self.sgd = make_sgd(model, config.train)
        self.per_epoch = len(data.weights)
        self.warmup = config.warmup_epochs * self.per_epoch
        self.total = config.train.epochs * self.per_epoch
        if config.warmup_epochs >= config.train.epochs:
            raise TrainingError(
                f"warmup_epochs={config.warmup_epochs} leaves nothing of train.epochs={config.train.epochs} "
                "to search in"
            )
        self.epoch = 0
        self.updates: list[Update] = []
        self.epochs: list[dict[str, float]] = []
        self.precision = self._precision()
        self.meter = Meter(self.total, 0, data.task.score_name, show=data.progress)

    def _precision(self) -> Precision:
        x, y = next(self.data.weights.epoch(0))
        y = y.to(self.device)
        self.model.train()
        chosen = choose_precision(
            self.model,
            x.to(self.device),
            loss=lambda outputs: self.data.task.loss(outputs, y),
            precision=self.config.train.precision,
            channels_last=self.config.train.channels_last,
        )
        place_model(self.model, chosen)
        return chosen

    def train_epoch(self, on_step: OnStep | None) -> bool:
        """Train one epoch; return whether `on_step` ended it."""
        started = time.perf_counter()
        self.model.train()
        self.meter.start_epoch(self.epoch, check_every=1 if self.device.type == "cpu" else 20)
        ratio_batches = self.data.ratios.forever(self._updates_before(self.epoch))
        for position, (x, y) in enumerate(self.data.weights.epoch(self.epoch)):
            step = self.epoch * self.per_epoch + position
            if self._is_update(step):
                update = self._update(step, ratio_batches)
                self.updates.append(update)
                if on_step is not None and on_step(update):
                    return True
            loss, score = self._train_step(step, x.to(self.device), y.to(self.device))
            self._check(self.meter.add(loss, score, len(x)), step)
        self._check(self.meter.flush(), step)
        means = {**self.meter.means(), "seconds": time.perf_counter() - started}
        self.epochs.append({"epoch": self.epoch, **means, "masked": float(step >= self.warmup)})
        self.epoch += 1
        return False

    def _is_update(self, step: int) -> bool:
        return step >= self.warmup and (step - self.warmup) % self.config.ratio_every == 0

    def _updates_before(self, epoch: int) -> int:
        steps = epoch * self.per_epoch - self.warmup
        return max(0, -(-steps // self.config.ratio_every))

    def _sharpness(self, step: int) -> float:
        first, last = self.config.sharpness_first, self.config.sharpness_last
        return sharpness_at(step - self.warmup, self.total - self.warmup, first=first, last=last)

    def _update(self, step: int, batches: Any) -> Update:
        """Move the keep ratios once."""
        done, total = step - self.warmup, self.total - self.warmup
        wanted = budget_at(
            done,
            total,
            start=1.0,
            end=self.budget.ratio,
            anneal_fraction=self.config.anneal_fraction,
        )
        alpha, sharpness = self.optimizer.keep_ratios, self._sharpness(step)
        gradient, loss = torch.zeros_like(alpha), torch.tensor(torch.nan)
        b = importance(self.model, self.graph, self.config.importance)
        if self.use_gradient:
            x, y = next(batches)
            gradient, loss = self._gradient(
                alpha, b, sharpness, (x.to(self.device), y.to(self.device)), step
            )
        met = float(self.cost.relative(alpha)) <= self.budget.ratio
        scale = step_scale_at(done, total)
        fixed = self.config.fix_when_met and met
        residuals = None if fixed else self.optimizer.step(gradient, wanted, step_scale=scale)
        alpha = self.optimizer.keep_ratios
        p = keep_probs(b, alpha, self.graph, sharpness=sharpness)
        return Update(
            step=step,
            budget=wanted,
            cost=float(self.cost.relative(alpha)),
            sharpness=sharpness,
            inexactness=float(inexactness(p, self.graph.offsets.to(p.device)).sum()),
            loss=float(loss),
            price=residuals.price if residuals else 0.0,
            price_spread=residuals.price_spread if residuals else 0.0,
            primal=residuals.primal if residuals else 0.0,
            dual=residuals.dual if residuals else 0.0,
            keep_ratios=tuple(alpha.tolist()),
        )

    def _gradient(
        self, alpha: Tensor, b: Tensor, sharpness: float, batch: tuple[Tensor, Tensor], step: int
    ) -> tuple[Tensor, Tensor]:
        generator = torch.Generator(self.device).manual_seed(
            step_seed(self.seed, "ratio mask", step)
        )
        return ratio_gradient(
            self.model,
            self.graph,
            alpha,
            b,
            batch,
            task=self.data.task,
            sharpness=sharpness,
            estimator=self.config.estimator,
            precision=self.precision,
            generator=generator,
        )

    def _train_step(self, step: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """One step of SGD under a sampled mask (none during the warm-up)."""
        config = self.config.train
        set_lr(self.sgd, lr_at(step, self.total, self.per_epoch, config))
        weights: dict[str, Tensor] = {}
        if step >= self.warmup:
            mask = self._mask(step)
            weights = masked_parameters(dict(self.model.named_parameters()), self.graph, mask)
        with autocast(self.precision, self.device):
            outputs = functional_call(self.model, weights, (place(x, self.precision),))
            loss = self.data.task.training_loss(config.label_smoothing)(outputs, y)
        self.sgd.zero_grad(set_to_none=True)
        loss.backward()
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.sgd.step()
        with torch.no_grad():
            return loss.detach(), self.data.task.score(outputs, y)

    @torch.no_grad()
    def _mask(self, step: int) -> Tensor:
        b = importance(self.model, self.graph, self.config.importance)
        p = keep_probs(
            b,
            self.optimizer.keep_ratios,
            self.graph,
            sharpness=self._sharpness(step),
            floor=self.config.prob_floor,
        )
        generator = torch.Generator(self.device).manual_seed(step_seed(self.seed, "mask", step))
        return sample_mask(p, generator)

    def _check(self, bad: int | None, step: int) -> None:
        if bad is not None:
            raise TrainingError(
                f"the loss is not finite in epoch {self.epoch}, step {bad} of {self.per_epoch}. The last good "
                f"checkpoint is {self.data.checkpoint or 'not there: none was asked for'}. Try a smaller lr, a "
                "clip_norm, or precision='fp32'"
            )

    def save(self, method: str) -> None:
        """Write everything the next epoch depends on."""
        if self.data.checkpoint is None:
            return
        state = {
            "fingerprint": self._fingerprint(method),
            "model": self.model.state_dict(),
            "sgd": self.sgd.state_dict(),
            "ratios": self.optimizer.state_dict(),
            "updates": [asdict(u) for u in self.updates],
            "epochs": self.epochs,
            "epoch": self.epoch,
            "precision": asdict(self.precision),
        }
        save_checkpoint(self.data.checkpoint, state)

    def restore(self, method: str) -> None:
        """Go on from the checkpoint, if there is one."""
        path = self.data.checkpoint
        if path is None or not path.exists():
            return
        state = load_checkpoint(path, self._fingerprint(method))
        self.precision = Precision(**state["precision"])
        place_model(self.model, self.precision)
        self.model.load_state_dict(state["model"])
        self.sgd.load_state_dict(state["sgd"])
        self.optimizer.load_state_dict(state["ratios"])
        self.updates = [
            Update(**{**u, "keep_ratios": tuple(u["keep_ratios"])}) for u in state["updates"]
        ]
        self.epochs = list(state["epochs"])
        self.epoch = int(state["epoch"])
        self.meter.bar.update(self.epoch * self.per_epoch)

    def _fingerprint(self, method: str) -> dict[str, str]:
        weights = {f"weights {k}": v for k, v in self.data.weights.fingerprint().items()}
        ratios = {f"ratios {k}": v for k, v in self.data.ratios.fingerprint().items()}
        own = {
            "method": method,
            "seed": str(self.seed),
            "budget": repr(self.budget),
            "model": shapes_fingerprint(self.model),
            "config": self.config.model_dump_json(),
        }
        return weights | ratios | own

    def allocation(self, method: str, stopped: bool) -> Allocation:
        """Round the keep ratios to whole channels."""
        b = importance(self.model, self.graph, self.config.importance).cpu()
        alpha = self.optimizer.keep_ratios
        return Allocation(
            method=method,
            graph=self.graph,
            budget=self.budget,
            keep_ratios=alpha,
            importance=b,
            counts=round_to_channels(alpha, self.cost, self.budget),
            updates=tuple(self.updates),
            epochs=tuple(self.epochs),
            seconds=sum(e["seconds"] for e in self.epochs),
            device=str(self.device),
            notes={
                "precision": self.precision.name,
                "channels_last": self.precision.channels_last,
                "stopped": stopped,
            },
        )


def ratio_gradient(
    model: nn.Module,
    graph: ChannelGraph,
    alpha: Tensor,
    b: Tensor,
    batch: tuple[Tensor, Tensor],
    *,
    task: Task,
    sharpness: float,
    estimator: Estimator,
    precision: Precision,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """The gradient of the validation loss with respect to the keep ratios, on one batch.

    BatchNorm uses the statistics of the batch under the mask, as the weights' training does; the running
    ones are not touched (open in the paper).

    Args:
        alpha: keep ratios, shape (K,).
        b: importance, shape (n,).
        batch: (x, targets).

    Returns:
        dL/dalpha, shape (K,), in the type of alpha; and the loss, shape ().
    """
    alpha = alpha.detach().requires_grad_()
    p = keep_probs(b, alpha, graph, sharpness=sharpness)
    mask = estimator_mask(p, estimator, generator=generator)
    weights = {name: value.detach() for name, value in model.named_parameters()}
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    state = weights | masked_parameters(weights, graph, mask) | buffers
    x, y = batch
    with autocast(precision, x.device):
        loss = task.loss(functional_call(model, state, (place(x, precision),)).float(), y)
    (gradient,) = torch.autograd.grad(loss, alpha)
    return gradient, loss.detach()


__all__ = ["OnStep", "SearchConfig", "SearchData", "ratio_gradient", "search"]
