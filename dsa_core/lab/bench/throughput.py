"""Training images a second: our loop against the usual one with torchvision's DataLoader."""

import time
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from dsa_core.lab import data
from dsa_core.lab.bench.figures import Figure, figure, ratios
from dsa_core.lab.bench.images import MEAN, STD, made_up, normalised
from dsa_core.lab.bench.networks import fresh
from dsa_core.lab.device import device_of
from dsa_core.training import TrainConfig, train
from dsa_core.training.stopwatch import synchronise

BATCH, WORKERS = 128, 2
LR, MOMENTUM, DECAY = 0.01, 0.9, 5e-4


class AsImages(Dataset[tuple[Tensor, int]]):
    """Images one by one through PIL and torchvision's transforms, as its CIFAR-10 gives them."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        from torchvision import transforms as T

        self.images, self.labels = images.permute(0, 2, 3, 1).numpy(), labels.tolist()
        self.transform = T.Compose(
            [
                T.RandomCrop(32, padding=4),
                T.RandomHorizontalFlip(),
                T.ToTensor(),
                T.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


class Loops:
    """The same network, trained by both loops on the same images."""

    def __init__(self, name: str, *, steps: int, precision: str = "auto") -> None:
        """Set up.

        Args:
            name: a network for images of 3x32x32.
            steps: of an epoch, 128 images each.
            precision: of our loop; "auto" measures, as it does by default.
        """
        self.made, self.device = made_up(BATCH * steps), device_of()
        self.model, self.other = fresh(name).to(self.device), fresh(name).to(self.device)
        self.steps = steps
        self.config = TrainConfig(
            epochs=1,
            precision=precision,  # type: ignore[arg-type]
            channels_last=False if precision == "fp32" else "auto",
            schedule="constant",
            lr=LR,
            momentum=MOMENTUM,
            weight_decay=DECAY,
            nesterov=False,
        )
        self.batches = normalised(
            self.made, batch_size=BATCH, augment="crop_flip", device=self.device
        )
        self.loader: Iterable[tuple[Tensor, Tensor]] = DataLoader(
            AsImages(*self.made),
            batch_size=BATCH,
            shuffle=True,
            drop_last=True,
            num_workers=WORKERS,
            persistent_workers=True,
            pin_memory=self.device.type == "cuda",
        )
        self.sgd = torch.optim.SGD(
            self.other.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY
        )
        self.precision = ""

    def ours(self) -> float:
        """Seconds of one epoch of `train`, without the choice of a precision before it."""
        task = data.classification()
        result = train(self.model, self.batches, task, self.config, seed=0, progress=False)
        self.precision = result.precision + (" channels_last" if result.channels_last else "")
        settled = {"precision": result.precision, "channels_last": result.channels_last}
        self.config = self.config.model_copy(update=settled)
        return result.seconds

    def usual(self) -> float:
        """Seconds of one epoch as most scripts have it, in float32; workers are kept."""
        self.other.train()
        start = time.perf_counter()
        for x, y in self.loader:
            x, y = x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)
            loss = cross_entropy(self.other(x), y)
            self.sgd.zero_grad()
            loss.backward()
            self.sgd.step()
        synchronise(self.device)
        return time.perf_counter() - start


def train_throughput(
    name: str, *, rounds: int, steps: int, precision: str = "auto"
) -> tuple[Figure, Figure]:
    """Epochs of both loops in turn; a first round warms up and starts the workers.

    Returns:
        Usual seconds over ours; and images a second of ours.
    """
    loops = Loops(name, steps=steps, precision=precision)
    times = [(loops.ours(), loops.usual()) for _ in range(rounds + 1)][1:]
    ours, usual = zip(*times, strict=True)
    note = (
        f"{name}, batch {BATCH}, {steps} steps an epoch, ours in {loops.precision}, the usual loop "
        f"in fp32 with {WORKERS} workers; made-up images of 3x32x32"
    )
    speed = [steps * BATCH / s for s in ours]
    return figure(ratios(usual, ours), "times", note), figure(speed, "images/s", note)
