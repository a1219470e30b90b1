"""torch-pruning on the same networks and machine: `pytest -s tests/benchmarks/test_peer.py`.

The accuracy needs CIFAR-10 and the standard weights. `DSA_COUNTS`, a `record.json` of a search on
resnet20_a or resnet56_a at half of the MACs, adds its counts to the table (weights as they came).
Nothing here fails by being slow or less accurate.
"""

import os
from pathlib import Path

import pytest
import torch
from peer import CRITERIA, Cut, ours, ours_uniform, theirs, they_prune
from torch import nn

from dsa_core.lab import data, models
from dsa_core.lab.bench.tracing import PEER_NETWORKS
from dsa_core.lab.check import check
from dsa_core.lab.models.weights import load_weights
from dsa_core.lab.record_files import read_record

MACS = 0.5
STANDARD = {"resnet20_a": "resnet20-12fca82f.th", "resnet56_a": "resnet56-4bfd9763.th"}


def test_networks_that_can_be_pruned() -> None:
    print(f"\n{'network':22} {'ours':24} theirs")
    found = {name: (check(name), they_prune(name)) for name in PEER_NETWORKS}
    for name, (row, reason) in found.items():
        print(f"{name:22} {row.status + ' ' + row.reason:24} {reason or 'ok'}")
    print(
        f"ours {sum(row.status == 'ok' for row, _ in found.values())}, theirs "
        f"{sum(not reason for _, reason in found.values())} of {len(found)}"
    )
    assert all(row.status == "ok" for row, _ in found.values())


def standard(name: str) -> tuple[nn.Module, data.Dataset]:
    path = data.data_root() / "weights" / STANDARD[name]
    if not path.exists() or not (data.data_root() / "cifar-10-batches-py").exists():
        pytest.skip(f"needs CIFAR-10 and {path}; see data/README.md")
    model = models.build(name)
    load_weights(model, path)
    return model.eval(), data.load("cifar10")


def show(name: str, cut: Cut) -> None:
    scores = (cut.accuracy, cut.recalibrated, cut.refitted)
    print(f"{name:30} {cut.macs:8.3f}", *(f"{100 * score:9.2f}" for score in scores))
    assert 0 < cut.macs <= 1


@pytest.mark.data
@pytest.mark.parametrize("name", list(STANDARD))
def test_accuracy_before_fine_tuning(name: str) -> None:
    dense, cifar = standard(name)
    print(f"\n{name:30} {'MACs':>8} {'cut %':>9} {'BN recal %':>9} {'refitted':>9}")
    for inner in (False, True):
        print("torch-pruning,", "inside the blocks only:" if inner else "all channels:")
        for criterion in CRITERIA:
            try:
                show(f"  {criterion}", theirs(dense, criterion, MACS, cifar, inner=inner))
            except RuntimeError as error:
                print(f"  {criterion}: {type(error).__name__}: {error}")
    for kind in ("gamma_first", "l1", "l2"):
        show(f"ours, uniform, {kind}", ours_uniform(dense, kind, MACS, cifar))
    if os.environ.get("DSA_COUNTS"):
        record = read_record(Path(os.environ["DSA_COUNTS"]))
        if record.model == name:
            counts = torch.tensor([group.kept for group in record.groups])
            show(f"ours, {record.method}", ours(dense, counts, "gamma_first", cifar))
