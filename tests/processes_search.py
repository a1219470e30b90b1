"""A training, a search and images read by workers, alone or as one of several processes.

Not a test itself: python -m torch.distributed.run --nproc_per_node 2 tests/processes_search.py OUT
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save
from torch import Tensor, nn

from dsa_core.budget import Budget
from dsa_core.files import write_atomically
from dsa_core.lab.data import classification, load, split
from dsa_core.methods import ALLOCATORS, SearchConfig, SearchData
from dsa_core.tracing import trace
from dsa_core.training import TrainConfig, evaluate, train
from dsa_core.training.processes import process_group

PLAIN = {"precision": "fp32", "channels_last": False, "lr": 0.05, "batch_size": 64}


def network(channels: int = 1) -> nn.Module:
    """A small network without BatchNorm, whose statistics would differ between shares."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def trained_on(path: Path) -> dict[str, Tensor]:
    """Train on a folder of images, and test on five of them: batches of 2, 2 and 1."""
    folder = replace(load(f"folder:{path}", workers=1), size=16)
    model, task = network(3), classification()
    config = TrainConfig(epochs=2, ema=0.5, **PLAIN)
    train(model, folder.batches("train", batch_size=4), task, config, seed=0, progress=False)
    test = folder.batches("test", batch_size=2, indices=torch.arange(5))
    found = evaluate(model, test, task)
    measured = {"tested": torch.tensor([found.loss, found.score, found.n])}
    return measured | {f"images.{name}": value for name, value in model.state_dict().items()}


def main(out: Path) -> None:
    """Train one epoch, search one, and write what came out, on every rank."""
    dataset, model = load("digits"), network()
    graph = trace(model, torch.zeros(1, 1, 8, 8))
    task = classification()
    every = dataset.batches("train", batch_size=64, drop_last=True, seed=1)
    dense = train(
        model, every, task, TrainConfig(epochs=1, **PLAIN), seed=0, checkpoint=out / "dense.pt",
        progress=False,
    )  # fmt: skip
    weights, ratios = split(dataset.count("train"), 0.8, seed=0)
    data = SearchData(
        weights=dataset.batches("train", batch_size=64, indices=weights, drop_last=True, seed=2),
        ratios=dataset.batches("train", batch_size=64, indices=ratios, drop_last=True, seed=3),
        task=task,
        checkpoint=out / "search.pt",
        progress=False,
    )
    config = SearchConfig(train=TrainConfig(epochs=1, **PLAIN), ratio_every=2)
    found = ALLOCATORS["dsa"](model, graph, Budget(macs=0.5), data, config, seed=0)
    tensors = dict(model.state_dict())
    tensors |= {"keep_ratios": found.keep_ratios, "counts": found.counts}
    tensors |= trained_on(out.parent / "images")
    history = [*dense.history, *found.epochs]
    tensors["losses"] = torch.tensor([e["train_loss"] for e in history])
    tensors["scores"] = torch.tensor([e["train_score"] for e in history])
    write_atomically(out / f"rank{process_group().rank}.safetensors", save(tensors))


if __name__ == "__main__":
    torch.set_num_threads(1)
    from dsa_core.lab.device import device_of

    assert device_of().type == "cpu"  # starts the process group, as `dsa run` does
    main(Path(sys.argv[1]))
    if dist.is_initialized():
        dist.destroy_process_group()
