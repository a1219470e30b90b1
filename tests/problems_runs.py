"""Small searches, networks and records that several tests share; each is made once a process."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dsa_core.budget import Budget
from dsa_core.channels import ChannelGraph
from dsa_core.lab import data, models
from dsa_core.lab.latency import Latency
from dsa_core.lab.record import CostRecord, GroupRecord, Record, Scores
from dsa_core.lab.runs import Preset, RunConfig
from dsa_core.lab.runs.config import short_hash
from dsa_core.methods import ALLOCATORS, Allocation, OnStep, SearchConfig, SearchData, Update
from dsa_core.surgery import prune, save
from dsa_core.surgery.sparse import save_sparse, zero_weights
from dsa_core.surgery.verify import random_channels
from dsa_core.tracing import trace
from dsa_core.training import TrainConfig, train

TASK = data.classification()
PLAIN: dict[str, Any] = {"precision": "fp32", "channels_last": False}  # nothing to measure


@cache
def digits() -> data.Dataset:
    return data.load("digits")


@cache
def graph8() -> ChannelGraph:
    return trace(fresh(), torch.zeros(1, 1, 8, 8))


def fresh(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return models.build("resnet8")


@cache
def _trained() -> nn.Module:
    model = fresh()
    config = TrainConfig(epochs=3, lr=0.1, **PLAIN)
    batches = digits().batches("train", batch_size=64, indices=torch.arange(640))
    train(model, batches, TASK, config, seed=0, progress=False)
    return model


def trained() -> nn.Module:
    """A resnet8 that knows most digits; a copy of its own for each caller."""
    return copy.deepcopy(_trained())


def same(a: nn.Module, b: nn.Module) -> None:
    """Both hold the same bits."""
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)


def save_pruned(folder: Path) -> tuple[nn.Module, nn.Module]:
    """Cut half of a resnet8 in float64, and save it: dense and pruned."""
    model, keep = fresh().double().eval(), random_channels(graph8(), 0.5, 0)
    pruned = prune(model, graph8(), keep)
    save(folder, pruned, graph8(), keep, name="resnet8")
    return model, pruned


def save_sparse8(folder: Path, share: float = 0.3) -> tuple[nn.Module, dict[str, Tensor]]:
    """Keep a share of the weights of a resnet8, and save it: the network and its masks."""
    model, draw = fresh().eval(), torch.Generator().manual_seed(0)
    weights = {n: p for n, p in model.named_parameters() if p.ndim > 1}
    masks = {n: torch.rand(p.shape, generator=draw) < share for n, p in weights.items()}
    sparse = zero_weights(model, masks)
    save_sparse(folder, sparse, graph8(), masks, name="resnet8")
    return sparse, masks


def stop_after(n: int) -> OnStep:
    """Ctrl-C at the n-th update."""
    seen = []

    def stop(update: Update) -> None:
        seen.append(update)
        if len(seen) == n:
            raise KeyboardInterrupt

    return stop


def search_config(**changes: Any) -> SearchConfig:
    """Five epochs; `epochs`, `lr` and `schedule` are of the weights' training."""
    weights = {"epochs": 5, "lr": 0.02, "schedule": "constant", **PLAIN}
    weights |= {key: changes.pop(key) for key in list(changes) if key in weights}
    return SearchConfig(train=TrainConfig(**weights), **changes)


def search_data(checkpoint: Path | None = None) -> SearchData:
    """Four steps of 64 an epoch for the weights, two batches for the ratios."""
    some = {"drop_last": True, "batch_size": 64}
    weights = digits().batches("train", indices=torch.arange(256), seed=1, **some)
    ratios = digits().batches("train", indices=torch.arange(256, 400), seed=2, **some)
    return SearchData(weights, ratios, TASK, checkpoint=checkpoint, progress=False)


def allocate(
    method: str,
    model: nn.Module,
    budget: Budget | None = None,
    config: SearchConfig | None = None,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    on_step: OnStep | None = None,
) -> Allocation:
    return ALLOCATORS[method](
        model,
        graph8(),
        budget or Budget(macs=0.5),
        search_data(checkpoint),
        config or search_config(),
        seed=seed,
        on_step=on_step,
    )


@cache
def found(method: str, resource: str = "macs", ratio: float = 0.5) -> Allocation:
    """A search from the trained network, down to half of the MACs."""
    return allocate(method, trained(), Budget(**{resource: ratio}))


def tiny_preset(**changes: Any) -> Preset:
    """A whole run in seconds."""
    settings: dict[str, Any] = {
        "model": "resnet8",
        "dataset": "digits",
        "dense": TrainConfig(epochs=2, lr=0.1, batch_size=256, **PLAIN),
        "search": SearchConfig(
            train=TrainConfig(epochs=2, lr=0.02, batch_size=256, schedule="constant", **PLAIN),
            ratio_every=2,
        ),
        "fine_tune": TrainConfig(epochs=2, lr=0.05, batch_size=256, **PLAIN),
        "weights_fraction": 0.8,
        "norm_batches": 2,
    }
    return Preset(**settings | changes)


def tiny_run(**changes: Any) -> RunConfig:
    settings = {"model": "resnet8", "dataset": "digits", "ratio": 0.5, "preset": tiny_preset()}
    return RunConfig(**settings | changes)


def some_cost(dense: int, ratio: float, asked: float | None = None) -> CostRecord:
    n = round(ratio * dense)
    return CostRecord(dense=dense, asked_ratio=asked, relaxed_ratio=ratio, whole=n, counted=n)


ASKED = ("method", "model", "dataset", "preset", "seed", "resource", "asked_ratio", "divisor")


def some_record(**changes: Any) -> Record:
    """A record with round numbers: 50 of 100 M MACs, 0.4 of 1 M parameters."""
    milliseconds = {"repeats": 15, "batch": 128, "threads": 1, "device": "cpu"}
    settings: dict[str, Any] = {
        "config_hash": short_hash(repr([changes.get(name) for name in ASKED])),
        "series": "9876543210",
        "method": "dsa",
        "model": "resnet20",
        "dataset": "cifar10",
        "preset": "cpu-short",
        "seed": 0,
        "resource": "macs",
        "asked_ratio": 0.5,
        "budget_met": True,
        "costs": {
            "macs": some_cost(100_000_000, 0.5, asked=0.5),
            "params": some_cost(1_000_000, 0.4),
        },
        "score_name": "accuracy",
        "scores": Scores(dense=0.9, pruned=0.7, fine_tuned=0.88, masked_loss=0.5),
        "groups": tuple(
            GroupRecord(name=f"conv{i}", size=16, kept=8 + i, keep_ratio=(8 + i) / 16)
            for i in range(4)
        ),
        "seconds": {"dense": 100.0, "search": 50.0, "fine_tune": 25.0},
        "epochs": {"dense": 15, "search": 4, "fine_tune": 4},
        "dense_reused": False,
        "latency": {
            "dense": Latency(median_ms=20.0, min_ms=19.0, **milliseconds),
            "pruned": Latency(median_ms=12.0, min_ms=11.0, **milliseconds),
        },
        "precision": "fp32",
        "versions": {"python": "3.11"},
        "device": "CPU",
        "git_commit": None,
    }
    return Record(**settings | changes)


ACCURACIES = (0.88, 0.90, 0.86)


def three_seeds() -> list[Record]:
    """Runs that differ in seed and score."""
    return [
        some_record(
            seed=i,
            config_hash=str(i),
            scores=Scores(dense=0.9 + 0.01 * i, pruned=0.7, fine_tuned=a, masked_loss=0.5),
            seconds={"dense": 100.0, "search": 50.0 + 10 * i, "fine_tune": 25.0},
        )
        for i, a in enumerate(ACCURACIES)
    ]


def write_folder(root: Path, train: int = 6, val: int = 2, classes: int = 2) -> Path:
    """Write noise in ImageNet's layout: `train` and `val` images of each class."""
    rng = np.random.default_rng(0)
    for part, n in (("train", train), ("val", val)):
        for name in ("ant", "bee")[:classes]:
            (root / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root
