"""torch-pruning beside us on the same networks: its graph, its pruning, its global criteria."""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dsa_core.budget import Budget, Cost, round_to_channels, uniform_ratio
from dsa_core.channels import ChannelGraph
from dsa_core.lab import models
from dsa_core.lab.data import BatchSource, Dataset
from dsa_core.masks import top_channels
from dsa_core.ranking import Importance, importance
from dsa_core.surgery import prune
from dsa_core.surgery.verify import count_macs
from dsa_core.tracing import trace
from dsa_core.training import evaluate, mode, recalibrate_batchnorm

CRITERIA: dict[str, Callable[[], tp.importance.Importance]] = {
    "magnitude": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "BN scale": tp.importance.BNScaleImportance,
    "LAMP": tp.importance.LAMPImportance,
    "FPGM": tp.importance.FPGMImportance,
    "Taylor": tp.importance.GroupTaylorImportance,
}
STEPS = 200  # of a global pruning: each removes half a percent of the channels at most
TAYLOR_BATCHES, NORM_BATCHES = 8, 50
IMAGES = 1000  # of the refit


@contextmanager
def quietly() -> Iterator[None]:
    """Without the warnings of code that is not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def fresh(name: str) -> tuple[nn.Module, Tensor]:
    """A network with fresh weights, and an input."""
    torch.manual_seed(0)
    return models.build(name).eval(), models.example_input(name)


def their_pruner(
    model: nn.Module,
    x: Tensor,
    criterion: tp.importance.Importance,
    *,
    steps: int,
    ratio: float,
    inner: bool = False,
) -> tp.pruner.BasePruner:
    """Their pruner over the whole network; only the classifier's outputs are left alone.

    With `inner` it may prune inside the residual blocks only: it cuts a shortcut that slices and
    pads to a network that does not run.
    """
    kept = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1:]
    if inner:
        kept += [m for n, m in model.named_modules() if n == "conv1" or n.endswith("conv2")]
    return tp.pruner.BasePruner(
        model,
        x,
        importance=criterion,
        global_pruning=steps > 1,
        pruning_ratio=ratio,
        iterative_steps=steps,
        ignored_layers=kept,
    )


def they_prune(name: str) -> str:
    """Let them cut half of every layer; return "" if the result runs and is smaller."""
    model, x = fresh(name)
    before, outputs = count_macs(model, x), model(x).shape
    try:
        with quietly():
            pruner = their_pruner(model, x, CRITERIA["magnitude"](), steps=1, ratio=0.5)
            pruner.step()
        shape = model.eval()(x).shape
    except Exception as error:
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    share = count_macs(model, x) / before
    if shape != outputs:
        return f"the output became {tuple(shape)}"
    return "" if share < 0.6 else f"{share:.0%} of the MACs are left"


@dataclass(frozen=True)
class Cut:
    """A cut network before any fine-tuning.

    Attributes:
        macs: counted, of the dense ones.
        accuracy: on the test set, right after the cut.
        recalibrated: the same with BatchNorm recalibrated.
        refitted: of the same channels, every layer refitted by least squares instead.
    """

    macs: float
    accuracy: float
    recalibrated: float
    refitted: float


def judged(dense: nn.Module, pruned: nn.Module, cifar: Dataset) -> Cut:
    """Evaluate a cut network; it is changed."""
    x = torch.zeros(1, 3, 32, 32)
    test = cifar.batches("test", batch_size=500)
    accuracy = evaluate(pruned, test, cifar.task).score
    train = cifar.batches("train", batch_size=128, seed=0)
    recalibrate_batchnorm(pruned, train, NORM_BATCHES)
    again = evaluate(pruned, test, cifar.task).score
    graph = trace(dense, x)
    batches = cifar.batches("train", batch_size=250, augment="none").epoch(0)
    images = [images for images, _ in islice(batches, IMAGES // 250)]
    refitted = prune(dense, graph, kept_of(pruned, dense, graph), reconstruct=images)
    return Cut(
        count_macs(pruned, x) / count_macs(dense, x),
        accuracy,
        again,
        evaluate(refitted, test, cifar.task).score,
    )


def kept_of(pruned: nn.Module, dense: nn.Module, graph: ChannelGraph) -> Tensor:
    """Which channels a cut network has kept (n,), read off the scales of its BatchNorms."""
    ours, theirs = dense.state_dict(), pruned.state_dict()
    keep = torch.zeros(graph.n_channels, dtype=torch.bool)
    for norm in graph.norms:
        there = torch.isin(ours[norm.weight], theirs[norm.weight])
        assert int(there.sum()) == len(theirs[norm.weight]), f"{norm.weight}: equal scales"
        keep[norm.channels[there & (norm.channels >= 0)]] = True
    return keep


def theirs(dense: nn.Module, criterion: str, macs: float, cifar: Dataset, *, inner: bool) -> Cut:
    """Their global pruning, step by step, until the counted MACs are within the budget."""
    pruned, x = copy.deepcopy(dense).eval(), torch.zeros(1, 3, 32, 32)
    limit = macs * count_macs(dense, x)
    with quietly():
        pruner = their_pruner(pruned, x, CRITERIA[criterion](), steps=STEPS, ratio=1.0, inner=inner)
        if criterion == "Taylor":
            accumulate(pruned, cifar.batches("train", batch_size=128, seed=0))
        for _ in range(STEPS):
            if count_macs(pruned, x) <= limit:
                break
            pruner.step()
    return judged(dense, pruned, cifar)


def accumulate(model: nn.Module, batches: BatchSource) -> None:
    """Leave gradients of some batches in the weights, as their Taylor criterion wants."""
    with mode(model, training=False):
        for (x, y), _ in zip(batches.epoch(0), range(TAYLOR_BATCHES), strict=False):
            cross_entropy(model(x), y).backward()


def ours_uniform(dense: nn.Module, kind: Importance, macs: float, cifar: Dataset) -> Cut:
    """Our uniform allocation, the same share of every group, without any search."""
    graph = trace(dense, torch.zeros(1, 3, 32, 32))
    budget, cost = Budget(macs=macs), Cost.of(graph, "macs")
    floors = budget.least_counts(cost).double() / cost.sizes
    counts = round_to_channels(uniform_ratio(cost.relative, macs, floors), cost, budget)
    return ours(dense, counts, kind, cifar)


def ours(dense: nn.Module, counts: Tensor, kind: Importance, cifar: Dataset) -> Cut:
    """The given weights, cut to `counts` (K,) channels a group, as a search found them.

    Of a search the counts alone are taken: its masked training would be a kind of fine-tuning.
    """
    graph = trace(dense, torch.zeros(1, 3, 32, 32))
    keep = top_channels(importance(dense, graph, kind), counts, graph)
    return judged(dense, prune(dense, graph, keep), cifar)
