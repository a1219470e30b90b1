"""The phases of a run: the dense network, the search, the cut, the fine-tuning."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from dsa_core.allocators import ALLOCATORS, Allocation, SearchData
from dsa_core.channels import ChannelGraph
from dsa_core.data import BatchSource, Dataset, FolderDataset, Task, split, step_seed
from dsa_core.experiment.config import RunConfig
from dsa_core.files import write_atomically
from dsa_core.masks import masked
from dsa_core.surgery import prune
from dsa_core.training import (
    FP32,
    TrainConfig,
    TrainResult,
    evaluate,
    place_model,
    recalibrate_batchnorm,
    train,
)

EVAL_BATCH = 500


@dataclass(frozen=True)
class Workshop:
    """What the phases of a run share.

    Attributes:
        config: of the run.
        out: folder of all runs.
        dataset, task, device: as loaded.
        progress: show bars and say what happens.
        home: folder of this run; None for `out/<run>`.
    """

    config: RunConfig
    out: Path
    dataset: Dataset | FolderDataset
    task: Task
    device: torch.device
    progress: bool
    home: Path | None = None

    @property
    def folder(self) -> Path:
        """The folder of this run."""
        return self.home or self.out / self.config.folder

    @property
    def checkpoints(self) -> Path:
        """Where the phases save themselves."""
        return self.folder / "checkpoints"

    def training(
        self, phase: str, settings: TrainConfig, indices: Tensor | None = None
    ) -> BatchSource:
        """Augmented training batches; their order depends on seed and phase."""
        return self.dataset.batches(
            "train",
            batch_size=settings.batch_size,
            indices=indices,
            seed=step_seed(self.config.seed, phase),
            drop_last=True,
            device=self.device,
        )

    def score(self, model: nn.Module) -> float:
        """The score on the test set, in float32."""
        test = self.dataset.batches("test", batch_size=EVAL_BATCH, device=self.device)
        return evaluate(model, test, self.task).score

    def halves(self) -> tuple[Tensor, Tensor]:
        """The part of the training set for the weights, and the part for the keep ratios."""
        n = self.dataset.count("train")
        return split(n, self.config.preset.weights_fraction, self.config.seed)

    def say(self, text: str) -> None:
        """Tell the user, if they want to hear."""
        if self.progress:
            print(text, flush=True)


@dataclass(frozen=True)
class DenseNetwork:
    """The network that a search starts from.

    Attributes:
        model: on its device.
        score: on the test set; None if it is untrained.
        seconds, epochs: of its training.
        reused: whether an earlier run trained it.
    """

    model: nn.Module
    score: float | None
    seconds: float
    epochs: int
    reused: bool


def dense_network(shop: Workshop, model: nn.Module) -> DenseNetwork:
    """Train the dense network in place, or take the one that a run left in `out/dense/`.

    Of runs that go side by side one trains it, and the others wait.
    """
    config, settings = shop.config, shop.config.preset.dense
    if settings is None:
        return DenseNetwork(model, None, 0.0, 0, reused=False)
    folder = shop.out / "dense" / config.dense_folder
    done = folder / "dense.json"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if not done.exists():
                train_dense(shop, model, settings, folder)
    facts = json.loads(done.read_text())
    model.load_state_dict(load_tensors((folder / "model.safetensors").read_bytes()))
    reused = facts.get("trained_by") != config.hash  # a run that was killed later finds its own
    word = f"trained before, {folder}" if reused else f"on the test set, {folder}"
    shop.say(f"dense {config.model}: {facts['score']:.2%} {shop.task.score_name} ({word})")
    return DenseNetwork(model, facts["score"], facts["seconds"], facts["epochs"], reused=reused)


def train_dense(shop: Workshop, model: nn.Module, settings: TrainConfig, folder: Path) -> None:
    """Train the dense network in place, and write it to its folder."""
    config = shop.config
    shop.say(f"dense {config.model}: training {settings.epochs} epochs of {config.dataset}")
    result = train(
        model,
        shop.training("dense", settings),
        shop.task,
        settings,
        seed=config.seed,
        checkpoint=folder / "train.pt",
        progress=shop.progress,
    )
    place_model(model, FP32)
    tensors = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    write_atomically(folder / "model.safetensors", save_tensors(tensors))
    facts = {
        "trained_by": config.hash,
        "score": shop.score(model),
        "seconds": result.seconds,
        "epochs": len(result.history),
        "config": settings.model_dump(),
        "history": result.history,
    }
    write_atomically(folder / "dense.json", json.dumps(facts, indent=1) + "\n")


def find_allocation(
    shop: Workshop, model: nn.Module, graph: ChannelGraph
) -> tuple[Allocation, float]:
    """Search, training the model in place; also the validation loss under the hard mask."""
    config, settings = shop.config, shop.config.preset.search
    weights, ratios = shop.halves()
    data = SearchData(
        weights=shop.training("weights", settings.train, weights),
        ratios=shop.training("ratios", settings.train, ratios),
        task=shop.task,
        checkpoint=shop.checkpoints / "search.pt",
        progress=shop.progress,
    )
    shop.say(f"{config.method}: searching for {config.ratio:.0%} of the dense {config.resource}")
    allocation = ALLOCATORS[config.method](
        model, graph, config.budget, data, settings, seed=config.seed
    )
    held_out = shop.dataset.batches(
        "train", batch_size=EVAL_BATCH, indices=ratios, augment="none", device=shop.device
    )
    with masked(model, graph, allocation.keep.float().to(shop.device)) as cut:
        loss = evaluate(cut, held_out, shop.task).loss
    write_history(shop.folder, allocation)
    return allocation, loss


def cut_and_recalibrate(
    shop: Workshop, model: nn.Module, graph: ChannelGraph, allocation: Allocation
) -> nn.Module:
    """Prune, and estimate the BatchNorm statistics of what is left anew."""
    pruned = prune(model, graph, allocation.keep)
    preset = shop.config.preset
    batches = shop.training("recalibration", preset.fine_tune)
    recalibrate_batchnorm(pruned, batches, preset.norm_batches)
    return pruned


def fine_tune(shop: Workshop, pruned: nn.Module) -> TrainResult:
    """Train the pruned network in place, on the whole training set."""
    settings = shop.config.preset.fine_tune
    shop.say(f"{shop.config.method}: fine-tuning {settings.epochs} epochs")
    result = train(
        pruned,
        shop.training("fine-tune", settings),
        shop.task,
        settings,
        seed=shop.config.seed,
        checkpoint=shop.checkpoints / "fine_tune.pt",
        progress=shop.progress,
    )
    place_model(pruned, FP32)  # the score and the latency are of plain float32
    return result


def write_history(folder: Path, allocation: Allocation) -> None:
    """Write every update of the keep ratios, and every epoch, as `history.json`."""
    updates = [asdict(u) for u in allocation.updates]
    columns = {k: [rounded(u[k]) for u in updates] for k in (updates[0] if updates else {})}
    history = {
        "groups": [g.name for g in allocation.graph.prunable],
        "sizes": allocation.graph.sizes.tolist(),
        "updates": columns,
        "epochs": list(allocation.epochs),
    }
    write_atomically(folder / "history.json", json.dumps(history) + "\n")


def rounded(value: float | int | tuple[float, ...]) -> float | int | list[float] | None:
    """Six significant digits; NaN, which JSON does not have, becomes null."""
    if isinstance(value, tuple):
        return [float(f"{v:.6g}") for v in value]
    if isinstance(value, int):
        return value
    return float(f"{value:.6g}") if value == value else None


__all__ = [
    "DenseNetwork",
    "Workshop",
    "cut_and_recalibrate",
    "dense_network",
    "find_allocation",
    "fine_tune",
]
