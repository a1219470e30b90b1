"""Running averages of loss and score, and the progress bar that shows them."""

import math

import torch
from torch import Tensor
from tqdm.auto import tqdm


class Meter:
    """Sum loss and score over an epoch and watch for a loss that is not finite.

    Losses are read back from the device only every `check_every` steps: on a GPU each read waits
    for all queued work.
    """

    def __init__(
        self, total_steps: int, done_steps: int, score_name: str, *, show: bool, phase: str = ""
    ) -> None:
        self.bar = tqdm(
            total=total_steps, initial=done_steps, unit="step", disable=not show, dynamic_ncols=True
        )
        self.score_name, self.phase = score_name, f"{phase}, " if phase else ""
        self.start_epoch(0, check_every=1)

    def start_epoch(self, epoch: int, *, check_every: int) -> None:
        """Reset the sums."""
        self.bar.set_description(f"{self.phase}epoch {epoch}", refresh=False)
        self.check_every = check_every
        self.n = self.steps = 0
        self.loss_sum = self.score_sum = 0.0
        self._waiting: list[tuple[Tensor, Tensor, int]] = []

    def add(self, loss: Tensor, score: Tensor, n: int) -> int | None:
        """Add a step's mean loss, summed score and example count; return as `flush`."""
        self._waiting.append((loss, score, n))
        self.bar.update()
        return self.flush() if len(self._waiting) >= self.check_every else None

    def flush(self) -> int | None:
        """Read back pending steps; return the first step whose loss is not finite, if any."""
        if not self._waiting:
            return None
        losses = torch.stack([loss.float() for loss, _, _ in self._waiting]).tolist()
        scores = torch.stack([score.float() for _, score, _ in self._waiting]).tolist()
        counts = [n for _, _, n in self._waiting]
        self._waiting = []
        for loss, score, n in zip(losses, scores, counts, strict=True):
            if not math.isfinite(loss):
                return self.steps
            self.steps += 1
            self.n += n
            self.loss_sum += n * loss
            self.score_sum += score
        means = self.means()
        shown = {"loss": f"{means['train_loss']:.3f}"}
        if self.score_name:
            shown[self.score_name] = f"{means['train_score']:.3f}"
        self.bar.set_postfix(shown, refresh=False)
        return None

    def means(self) -> dict[str, float]:
        """Averages over the examples of the epoch so far; no score if it has no name."""
        score = {"train_score": self.score_sum / self.n} if self.score_name else {}
        return {"train_loss": self.loss_sum / self.n, **score}

    def close(self) -> None:
        """Close the bar."""
        self.bar.close()
