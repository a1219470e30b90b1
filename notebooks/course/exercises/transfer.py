"""Is a search on the task better than an allocation carried over from another task?

Used by notebook 08. One encoder serves two networks: a classifier of single digits, and a
segmenter of scenes of digits. The segmenter is pruned to one budget by several allocations, always
from the same dense weights, with the same ranking of channels and the same fine-tuning: what
differs is how many channels each group keeps.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from dsa_core.allocation import Allocation
from dsa_core.budget import Budget, Cost, round_to_channels, shift_to_budget, uniform_ratio
from dsa_core.channels import ChannelGraph
from dsa_core.lab.data import AnyDataset, BatchSource, Dataset, load
from dsa_core.lab.models.segmentation import SmallSegNet
from dsa_core.masks import top_channels
from dsa_core.methods import DCSS
from dsa_core.pruner import Pruner
from dsa_core.ranking import importance
from dsa_core.surgery import prune
from dsa_core.tracing import trace
from dsa_core.training import TrainConfig, evaluate, recalibrate_batchnorm, train

NARROW, WIDE = 8, 16
RATIO = 0.25  # MACs allowed, of each dense network
METHODS = ("searched on the task", "its backbone alone", "carried over", "uniform")
ENLARGED = 16  # side of a digit for the classifier, in pixels: as large as in the scenes


@dataclass(frozen=True)
class Comparison:
    """One seed.

    Attributes:
        seed: of weights, order and searches.
        ratio: MACs that were allowed, of the dense segmenter.
        dense: mIoU of the dense segmenter on the test scenes.
        scores: method -> mIoU after the cut and the fine-tuning.
        macs: method -> MACs that are left, of the dense segmenter.
        counts: method -> kept channels of every group.
    """

    seed: int
    ratio: float
    dense: float
    scores: dict[str, float]
    macs: dict[str, float]
    counts: dict[str, list[int]]


class DigitClassifier(nn.Module):
    """The encoder of a `SmallSegNet`, the mean over its pixels, and a linear layer."""

    def __init__(self, segmenter: SmallSegNet) -> None:
        super().__init__()
        self.stem, self.down1, self.block1 = segmenter.stem, segmenter.down1, segmenter.block1
        self.down2, self.block2 = segmenter.down2, segmenter.block2
        self.linear = nn.Linear(segmenter.block2.conv2.out_channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 1, H, W) to logits (N, 10)."""
        features = self.block2(self.down2(self.block1(self.down1(self.stem(x)))))
        return self.linear(features.mean((2, 3)))


def compare(seed: int) -> Comparison:
    """Search on both tasks, prune the segmenter by every allocation, fine-tune, and score.

    Args:
        seed: of everything random.
    """
    scenes, digits, budget = load("digit_scenes"), enlarged(), Budget(macs=RATIO)
    segmenter, classifier = networks(seed, scenes.num_classes)
    ratios, graphs = [], []
    for model, dataset, side in ((segmenter, scenes, 32), (classifier, digits, ENLARGED)):
        fit(model, dataset, settings(40, 0.1), seed)
        graph = trace(model, torch.zeros(1, 1, side, side))
        found = searched(model, graph, dataset, budget, settings(10, 0.1), seed=seed)
        ratios.append(found.counts / graph.sizes.double())
        graphs.append(graph)
    graph, cost = graphs[0], Cost.of(graphs[0], "macs")
    allocations = dict(zip(METHODS, allocate(graphs, ratios, budget), strict=True))
    tuning = settings(12, 0.05)
    tuned = {
        name: cut_and_tuned(segmenter, graph, counts, scenes, tuning, seed=seed)
        for name, counts in allocations.items()
    }
    return Comparison(
        seed=seed,
        ratio=RATIO,
        dense=score(segmenter, scenes),
        scores={name: score(model, scenes) for name, model in tuned.items()},
        macs={name: cost.at(counts) / cost.dense for name, counts in allocations.items()},
        counts={name: counts.tolist() for name, counts in allocations.items()},
    )


def allocate(
    graphs: Sequence[ChannelGraph], searched_ratios: Sequence[Tensor], budget: Budget
) -> list[Tensor]:
    """Keep counts of the segmenter by each of `METHODS`, all within one budget.

    Where only the backbone has ratios, each group of the decoder gets their geometric mean, and one
    common factor brings all groups to the budget.

    Args:
        graphs: of the segmenter and of the classifier.
        searched_ratios: keep ratios searched on each of them, shapes (K,) and (K',).
        budget: of the segmenter.
    """
    graph, cost = graphs[0], Cost.of(graphs[0], budget.resource)
    here, there = (
        {g.name: r for g, r in zip(some.prunable, ratios.tolist(), strict=True)}
        for some, ratios in zip(graphs, searched_ratios, strict=True)
    )
    floors = budget.least_counts(cost) / cost.sizes
    wanted = [
        searched_ratios[0],
        spread(graph, {name: ratio for name, ratio in here.items() if name in there}),
        spread(graph, there),
        uniform_ratio(cost.relative, budget.ratio, floors),
    ]
    landed = [shift_to_budget(r.log(), cost.relative, budget.ratio, floors)[0] for r in wanted]
    return [round_to_channels(z.exp(), cost, budget) for z in landed]


def spread(graph: ChannelGraph, backbone: dict[str, float]) -> Tensor:
    """Ratios of all groups from those of the backbone: its geometric mean elsewhere, (K,)."""
    mean = torch.tensor(list(backbone.values()), dtype=torch.float64).log().mean().exp()
    ratios = [backbone.get(g.name, float(mean)) for g in graph.prunable]
    return torch.tensor(ratios, dtype=torch.float64)


def networks(seed: int, num_classes: int) -> tuple[SmallSegNet, DigitClassifier]:
    """A segmenter and a classifier with encoders of one shape, each with weights of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pair = [SmallSegNet(num_classes=num_classes, narrow=NARROW, wide=WIDE) for _ in "ab"]
        classifier = DigitClassifier(pair[1])
    return pair[0], classifier


def enlarged() -> Dataset:
    """The digits, 16 pixels wide."""
    digits = load("digits")
    assert isinstance(digits, Dataset)
    size = (ENLARGED, ENLARGED)

    def larger(images: Tensor) -> Tensor:
        return interpolate(images.float(), size=size, mode="bilinear").round().to(torch.uint8)

    return replace(
        digits,
        train_images=larger(digits.train_images),
        test_images=larger(digits.test_images),
    )


def settings(epochs: int, lr: float) -> TrainConfig:
    """A training in float32, the same on every machine."""
    return TrainConfig(epochs=epochs, lr=lr, batch_size=32, precision="fp32", channels_last=False)


def batches_of(dataset: AnyDataset, config: TrainConfig, seed: int) -> BatchSource:
    """All training examples."""
    return dataset.batches("train", batch_size=config.batch_size, seed=seed, drop_last=True)


def fit(model: nn.Module, dataset: AnyDataset, config: TrainConfig, seed: int) -> None:
    """Train in place on all training examples."""
    batches = batches_of(dataset, config, seed)
    train(model, batches, dataset.task, config, seed=seed, progress=False)


def searched(
    model: nn.Module,
    graph: ChannelGraph,
    dataset: AnyDataset,
    budget: Budget,
    config: TrainConfig,
    *,
    seed: int,
    method: DCSS | None = None,
) -> Allocation:
    """Search by DCSS on a copy of the network, an update of the choices in every step.

    Args:
        model: dense and trained; it is left as it is.
        graph: of the model.
        dataset: of the task.
        budget: to reach.
        config: of the weights' training, at a constant rate of 0.02.
        seed: of order and masks.
        method: settings; None for the defaults.
    """
    model, batches = copy.deepcopy(model), batches_of(dataset, config, seed)
    method, steps = method or DCSS(ratio_every=1), config.epochs * len(batches)
    pruner = Pruner(model, graph, budget, steps=steps, method=method, seed=seed)
    config = config.model_copy(update={"schedule": "constant", "lr": 0.02})
    train(model, batches, dataset.task, config, seed=seed, progress=False, pruner=pruner)
    return pruner.conclude()


def cut_and_tuned(
    model: nn.Module,
    graph: ChannelGraph,
    counts: Tensor,
    dataset: AnyDataset,
    config: TrainConfig,
    *,
    seed: int,
) -> nn.Module:
    """A pruned copy of the network with new BatchNorm statistics, after fine-tuning."""
    pruned = prune(model, graph, top_channels(importance(model, graph), counts, graph))
    recalibrate_batchnorm(pruned, batches_of(dataset, config, seed), 20)
    fit(pruned, dataset, config, seed + 1)
    return pruned


def score(model: nn.Module, dataset: AnyDataset) -> float:
    """What judges the task, on the test part."""
    return evaluate(model, dataset.batches("test", batch_size=300), dataset.task).score


def read(path: Path) -> list[Comparison]:
    """Read a JSON list of comparisons."""
    return [Comparison(**entry) for entry in json.loads(path.read_text())]
