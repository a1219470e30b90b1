"""What the phases of a run share: its configuration, data, task, device and folders."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from dsa_core.lab.data import AnyDataset, BatchSource, Task, generator, split, step_seed
from dsa_core.lab.runs.config import RunConfig
from dsa_core.training import EvalResult, evaluate

EVAL_BATCH = 500  # examples, for images up to 64x64
HELD_OUT = 0.9  # if nothing is held out, the loss of the cut is that of the rest of this split
EVAL_PIXELS = EVAL_BATCH * 64 * 64  # larger images are evaluated in smaller batches
LATENCY_BATCH = 128
LATENCY_PIXELS = LATENCY_BATCH * 32 * 32


@dataclass(frozen=True)
class RunContext:
    """What the phases of a run share.

    Attributes:
        config: of the run.
        out: folder of all runs.
        dataset, device: loaded dataset, which defines the task, and device of the run.
        progress: show bars and print messages.
        home: folder of this run; None for `out/<run>`.
        weights: file of dense weights to start from; None if not given, or `out` has a copy.
    """

    config: RunConfig
    out: Path
    dataset: AnyDataset
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
        """Folder of the checkpoints of the phases."""
        return self.folder / "checkpoints"

    def training(self, phase: str, batch_size: int, indices: Tensor | None = None) -> BatchSource:
        """Augmented training batches, whose order depends on seed and phase."""
        return self.dataset.batches(
            "train",
            batch_size=batch_size,
            indices=indices,
            seed=step_seed(self.config.seed, phase),
            drop_last=True,
            device=self.device,
        )

    def plain_batches(self, indices: Tensor) -> BatchSource:
        """Training examples without augmentation, each once."""
        return self.dataset.batches(
            "train",
            batch_size=self.eval_batch,
            indices=indices,
            augment="none",
            device=self.device,
        )

    def some_batches(self, phase: str, n: int) -> list[Tensor] | None:
        """Inputs of n random training examples, from seed and phase; None if n is 0."""
        drawn = generator(self.config.seed, phase)
        chosen = torch.randperm(self.dataset.count("train"), generator=drawn)[:n]
        return [x for x, _ in self.plain_batches(chosen).epoch(0)] if n else None

    def some_examples(self, n: int | None = None) -> Tensor:
        """The first n training examples, to time networks on; None: 128, or fewer if large."""
        n = n or max(1, min(LATENCY_BATCH, LATENCY_PIXELS // self.pixels))
        batches = self.dataset.batches("train", batch_size=n, augment="none", shuffle=False)
        x, _ = next(iter(batches.epoch(0)))
        return x

    @property
    def task(self) -> Task:
        """Loss and metrics."""
        return self.dataset.task

    def measure(self, model: nn.Module) -> EvalResult:
        """Loss and score on the test set, in float32."""
        test = self.dataset.batches("test", batch_size=self.eval_batch, device=self.device)
        return evaluate(model, test, self.task)

    @property
    def eval_batch(self) -> int:
        """Examples in an evaluation batch: fewer if they are large."""
        return max(1, min(EVAL_BATCH, EVAL_PIXELS // self.pixels))

    @property
    def pixels(self) -> int:
        """Pixels of an example."""
        return self.example[0, 0].numel()

    @cached_property
    def example(self) -> Tensor:
        """Zeros in the shape of one training example, shape (1, C, H, W), on the device.

        From the training set, because test images may differ in size.
        """
        return torch.zeros_like(self.some_examples(1), device=self.device)

    def halves(self) -> tuple[Tensor, Tensor]:
        """The parts of the training set for the weights and for the keep ratios."""
        n, fraction = self.dataset.count("train"), self.config.preset.weights_fraction
        if fraction < 1:
            return split(n, fraction, self.config.seed)
        return torch.arange(n), split(n, HELD_OUT, self.config.seed)[1]

    def print(self, text: str) -> None:
        """Print a message, if progress is shown."""
        if self.progress:
            print(text, flush=True)
