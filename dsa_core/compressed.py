"""What `compress` returns: the smaller network, how it was found, and ways to save it."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dsa_core.allocation import Allocation
from dsa_core.budget import Resource
from dsa_core.surgery import OnnxCheck, export_onnx, save
from dsa_core.surgery.onnx_file import ADVICE, BLOCKS
from dsa_core.surgery.sparse import save_sparse


@dataclass(frozen=True, repr=False)
class Compressed:
    """What `compress` returns; its text says what was asked, what was reached, and the scores.

    Attributes:
        model: the smaller network, in evaluation mode, on the device of the one that was given.
        allocation: which channels stay, with the history of the search and its costs.
        scores: of `validate`: "dense" before, "cut" after the cut, "fine_tuned" at the end,
            if there were epochs; empty without it.
        example: as it was given.
        epochs: records of the epochs of "search" and "fine-tune", see `TrainResult.history`.
    """

    model: nn.Module
    allocation: Allocation
    scores: dict[str, float]
    example: Any
    epochs: dict[str, list[dict[str, float]]]

    def save(self, folder: str | Path) -> Path:
        """Write the network: plain numbers and what was kept, no code; returns the folder.

        `dsa.load(folder, model)` reads it back, where `model` is the dense network. One of which
        single weights were removed (DTP) is read by `dsa_core.surgery.sparse.load_sparse`.
        """
        name, found = type(self.model).__name__, self.allocation
        if found.weight_mask:
            return save_sparse(folder, self.model, found.graph, found.weight_mask, name=name)
        return save(folder, self.model, found.graph, found.keep, name=name)

    def export_onnx(self, path: str | Path, *, int8: Iterable[Any] | None = None) -> OnnxCheck:
        """Write the network as ONNX for batches of any size, and compare the two; see there."""
        divisor = self.allocation.budget.divisor
        if divisor < min(BLOCKS):
            found = f"{ADVICE}. The widths are multiples of {divisor}"
            warnings.warn(f"{found}: compress(..., target='onnx')", stacklevel=2)
        return export_onnx(self.model, Path(path), self.example, int8=int8)

    def __repr__(self) -> str:
        found = self.allocation
        resources: dict[str, Resource] = {"MACs": "macs", "parameters": "params"}
        reached = ", ".join(
            f"{label} {_short(found.budget.cost(found.graph, resource).dense)} -> "
            f"{_short(found.whole_cost(resource))} ({found.whole_ratio(resource):.1%})"
            for label, resource in resources.items()
        )
        asked = ", ".join(f"{name} {ratio:.1%}" for name, ratio in found.budget.ratios.items())
        scores = ", ".join(f"{name} {score:.4g}" for name, score in self.scores.items())
        return (
            f"asked    {asked} of the dense network, by {found.method}\n"
            f"reached  {reached}\n"
            f"scores   {scores or 'none: pass validate= to have some'}"
        )


def _short(count: float) -> str:
    """A count with its prefix."""
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {prefix}"
    return f"{count:.0f}"
