"""The same job by torch-pruning and by us: own network, own loader, half the MACs, an ONNX file.

    python tests/benchmarks/compress_peer.py

prints what each reached, and how many lines each took.
"""

import copy
import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
import torch_pruning as tp
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dsa_core as dsa
from dsa_core.surgery.verify import count_macs

EPOCHS, EXAMPLE = 6, torch.zeros(2, 1, 8, 8)


def ours(model: nn.Module, loader: DataLoader, path: Path) -> nn.Module:
    """Budget, compress, export_onnx: three concepts."""
    half = dsa.Budget(macs=0.5)
    result = dsa.compress(
        model, EXAMPLE, loader, budget=half, loss=F.cross_entropy, epochs=EPOCHS, progress=False
    )
    result.export_onnx(path)
    return result.model


def theirs(model: nn.Module, loader: DataLoader, path: Path) -> nn.Module:
    """Importance, pruner, ignored layers, steps until a counted budget, fine-tuning, export."""
    model = copy.deepcopy(model)
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    dense, _ = tp.utils.count_ops_and_params(model, EXAMPLE)
    pruner = tp.pruner.MagnitudePruner(
        model,
        EXAMPLE,
        importance=tp.importance.GroupMagnitudeImportance(),
        global_pruning=True,
        iterative_steps=200,
        pruning_ratio=1.0,
        ignored_layers=[last],
    )
    for _ in range(200):
        pruner.step()
        if tp.utils.count_ops_and_params(model, EXAMPLE)[0] <= 0.5 * dense:
            break
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(loader))
    model.train()
    for _ in range(EPOCHS):
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    batch = {0: torch.export.Dim("batch")}
    program = torch.onnx.export(model, (EXAMPLE,), dynamo=True, dynamic_shapes=(batch,))
    program.save(path)
    return model


def lines(function: Callable[..., nn.Module]) -> int:
    """Lines of a function's body, without the docstring and the return."""
    return len(inspect.getsource(function).splitlines()) - 3


def main() -> None:
    """Train a network on digits, let both make it smaller, and compare."""
    x, y = (torch.tensor(part) for part in load_digits(return_X_y=True))
    x = x.float().reshape(-1, 1, 8, 8) / 16
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    fit, test = order[:1300], order[1300:]
    loader = DataLoader(TensorDataset(x[fit], y[fit]), 64, shuffle=True)
    torch.manual_seed(0)
    model = dsa.models.build("resnet8")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(EPOCHS):
        for images, targets in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), targets).backward()
            optimizer.step()
    for way in (ours, theirs):
        with tempfile.TemporaryDirectory() as folder:
            smaller = way(model, loader, Path(folder, "smaller.onnx"))
        right = (smaller(x[test]).argmax(1) == y[test]).float().mean()
        macs = count_macs(smaller, EXAMPLE) / count_macs(model.eval(), EXAMPLE)
        print(f"{way.__name__}: {lines(way)} lines, {macs:.1%} of the MACs, {right:.1%} right")


if __name__ == "__main__":
    main()
