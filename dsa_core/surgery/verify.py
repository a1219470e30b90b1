"""Does a pruned network compute what the masked one computes? The parts of that comparison."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dsa_core.channels import ChannelGraph
from dsa_core.example import Call, tensors_in

# Of the largest entry of the output: some hundred layers of roundings.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4}


def together(output: object) -> Tensor:
    """All numbers that a network returns, in one vector."""
    return torch.cat([t.flatten() for t in tensors_in(output)])


def distance(wanted: Tensor, found: Tensor) -> float:
    """The largest difference, relative to the largest entry; infinite if the shapes differ."""
    if wanted.shape != found.shape:
        return float("inf")
    return float((wanted - found).abs().max() / wanted.abs().max().clamp_min(1e-30))


def random_channels(graph: ChannelGraph, keep: float, seed: int) -> Tensor:
    """A random share of every group, at least one channel, bool, shape (n,)."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(graph.n_channels, dtype=torch.bool)
    for group in graph.prunable:
        count = max(1, round(keep * group.size))
        order = torch.randperm(group.size, generator=generator)
        chosen[group.start + order[:count]] = True
    return chosen


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Fill what is constant at the start (statistics, scales, zeroed heads) with random numbers.

    Otherwise the comparison could hold for a trivial reason: a head of zeros answers the same to
    all.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif name.endswith("running_mean"):
            tensor.normal_()
        elif (
            isinstance(tensor, nn.Parameter)
            and tensor.numel() > 1
            and bool((tensor == tensor.flatten()[0]).all())
        ):
            tensor.normal_(std=0.5) if float(tensor.flatten()[0]) == 0 else tensor.uniform_(
                0.5, 1.5
            )


def count_macs(model: nn.Module, example: Any) -> int:
    """MACs of one example by torch's flop counter, which counts two for each.

    Args:
        model: the network.
        example: what it is called with, in any form that `trace` takes.
    """
    call = Call.of(example)
    counter = FlopCounterMode(display=False)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(
        False
    )  # the counter does not see into the fused attention layer
    try:
        with torch.no_grad(), counter:
            call(model)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops() // 2 // call.batch
