"""Check a network of yours: trace it, mask it, cut it, compare (`dsa check`)."""

import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from dsa_core.budget import Cost
from dsa_core.channels import ChannelGraph
from dsa_core.lab import models
from dsa_core.masks import masked
from dsa_core.surgery import load, prune, save, try_forward
from dsa_core.surgery.verify import (
    TOLERANCES,
    count_macs,
    distance,
    random_channels,
    randomise,
    together,
)
from dsa_core.tracing import trace


class CheckRow(BaseModel):
    """The result for one network.

    Attributes:
        status: "ok", "failed" (a comparison does not hold) or "error" (an exception).
        reason: empty if ok.
        groups: prunable groups.
        max_abs_diff: largest difference of masked and pruned output, float64, relative to the
            largest entry.
        macs_predicted, macs_counted: of the pruned network, by our cost form and by torch's FLOP
            counter (halved).
    """

    model: str
    status: str
    reason: str = ""
    groups: int = 0
    max_abs_diff: float | None = None
    macs_predicted: int | None = None
    macs_counted: int | None = None
    seconds: float = 0.0


def check(name: str, *, keep: float = 0.5) -> CheckRow:
    """Drop random channels of a network; compare masked with pruned, predicted with counted MACs.

    In float64, with random weights and statistics; also after saving and loading.

    Args:
        name: of a network, as for `models.build`.
        keep: share of every group to keep, in (0, 1].

    Returns:
        One row; an exception becomes its `reason`.
    """
    started = time.perf_counter()
    row = CheckRow(model=name, status="error")
    try:
        torch.manual_seed(0)
        model = models.build(name).double().eval()
        example = models.example_input(name).double()
        graph = trace(model, example)
        randomise(model)
        chosen = random_channels(graph, keep, 0)
        row = compare(name, model, graph, torch.randn_like(example), chosen, files=True)
    except Exception as error:
        row.reason = " ".join(f"{type(error).__name__}: {error}".split())[:400]
    row.seconds = round(time.perf_counter() - started, 2)
    return row


def compare(
    name: str,
    model: nn.Module,
    graph: ChannelGraph,
    x: Any,
    chosen: Tensor,
    *,
    files: bool,
) -> CheckRow:
    """Run the comparisons, in evaluation mode, on an example in any form that `trace` takes.

    Args:
        chosen: channels kept, bool, shape (n,).
    """
    if not graph.prunable:
        return CheckRow(model=name, status="failed", reason=f"nothing to prune: {graph.report()}")
    model.eval()
    pruned = prune(model, graph, chosen)
    dense = together(try_forward(model, x))
    dtype = next(model.parameters()).dtype
    with masked(model, graph, chosen.to(dtype)):
        wanted = together(try_forward(model, x))
    difference = distance(wanted, together(try_forward(pruned, x)))
    counts = torch.stack([chosen[g.start : g.start + g.size].sum() for g in graph.prunable])
    row = CheckRow(
        model=name,
        status="ok",
        groups=len(graph.prunable),
        max_abs_diff=difference,
        macs_predicted=Cost.of(graph, "macs").at(counts),
        macs_counted=count_macs(pruned, x),
    )
    if not difference <= TOLERANCES[dtype]:
        row.status, row.reason = "failed", f"masked and pruned differ by {difference:.1e}"
    elif torch.equal(dense, wanted):
        row.status, row.reason = "failed", "the mask changes nothing: the comparison says nothing"
    elif row.macs_predicted != row.macs_counted:
        row.status, row.reason = "failed", "predicted and counted MACs differ"
    elif files and not reloads(name, model, pruned, graph, chosen, x):
        row.status, row.reason = "failed", "the saved and loaded network differs"
    return row


def reloads(
    name: str, model: nn.Module, pruned: nn.Module, graph: ChannelGraph, keep: Tensor, x: Any
) -> bool:
    """Whether the pruned network is unchanged by saving and loading."""
    with tempfile.TemporaryDirectory() as folder:
        save(folder, pruned, graph, keep, name=name)
        again = load(folder, model)
    return torch.equal(together(try_forward(again, x)), together(try_forward(pruned, x)))


def summary(rows: Sequence[CheckRow]) -> str:
    """One line about all rows."""
    ok = [r for r in rows if r.status == "ok"]
    largest = max((r.max_abs_diff or 0.0 for r in ok), default=0.0)
    return (
        f"{len(ok)} of {len(rows)} networks pass; largest difference masked - pruned {largest:.1e}"
    )
