"""What the phases of a run share: its configuration, data, task, device and folders."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dsa_core.data import BatchSource, Dataset, FolderDataset, Task, split, step_seed
from dsa_core.experiment.config import RunConfig
from dsa_core.training import TrainConfig, evaluate

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
        weights: file of the given dense weights; None if there are none, or `out` has a copy.
    """

    config: RunConfig
    out: Path
    dataset: Dataset | FolderDataset
    task: Task
    device: torch.device
    progress: bool
    home: Path | None = None
    weights: Path | None = None

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
