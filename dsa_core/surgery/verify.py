"""Does a pruned network compute what the masked one computes? The parts of that comparison."""

from collections.abc import Callable
from contextlib import nullcontext
from itertools import cycle
from math import gcd
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dsa_core.channels import ChannelGraph
from dsa_core.example import Call, tensors_in

T = TypeVar("T")
# Of the largest entry of the output: some hundred layers of roundings.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4}


def together(output: object) -> Tensor:
    """All numbers that a network returns, in one vector."""
    return torch.cat([t.flatten() for t in tensors_in(output)])


def distance(wanted: Tensor, found: Tensor, *, least: float = 1e-30) -> float:
    """The largest difference, relative to the largest of the entries that differ, which counts as
    `least` at least.

    Infinite if the shapes differ; entries that are both NaN, or the same infinity, are equal.
    """
    if wanted.shape != found.shape:
        return float("inf")
    if wanted.numel() == 0:
        return 0.0
    if not wanted.is_complex():
        wanted, found = wanted.double(), found.double()
    apart = ~((wanted == found) | (wanted.isnan() & found.isnan()))
    if not bool(apart.any()):
        return 0.0
    sizes = wanted[apart & wanted.isfinite()].abs()
    scale = sizes.max() if len(sizes) else 0.0
    difference = (wanted - found)[apart].abs().max()
    return float(difference.nan_to_num(float("inf")) / max(float(scale), least))


def random_channels(graph: ChannelGraph, keep: float, seed: int) -> Tensor:
    """A random share of every group, at least one channel, bool, shape (n,)."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(graph.n_channels, dtype=torch.bool)
    for group in graph.prunable:
        count = max(1, round(keep * group.size))
        order = torch.randperm(group.size, generator=generator)
        chosen[group.start + order[:count]] = True
    return chosen


def noise(tensor: Tensor, dtype: torch.dtype, *, below: int = 0) -> Tensor:
    """A floating or complex tensor in another format; one of equal numbers, or that holds NaN or
    infinity, becomes uniform in [0, 1).

    Equal int64 numbers, mostly of tokens, become uniform in [0, below), if that is not 0.
    """
    if below and tensor.dtype == torch.int64 and is_constant(tensor):
        return torch.randint_like(tensor, below)
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return tensor
    useless = is_constant(tensor) or not bool(tensor.isfinite().all())
    return in_format(torch.rand_like(tensor) if useless else tensor, dtype)


def in_format(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A floating tensor in a format, a complex one in the one to match; any other as it is."""
    if tensor.is_complex():
        return tensor.to(torch.complex128 if dtype == torch.float64 else torch.complex64)
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def is_constant(tensor: Tensor) -> bool:
    """Whether a tensor holds several numbers, all equal."""
    return tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all())


def some_channels(graph: ChannelGraph, names: set[str] | None) -> Tensor:
    """About half of each of the named groups, at random, and all others.

    Groups of one size keep different counts, while there are any left, so that a number in the code
    shows whose width it is.
    """
    generator = torch.Generator().manual_seed(1)
    keep = torch.ones(graph.n_channels, dtype=torch.bool)
    counts = {n: cycle(trial_counts(n)) for n in {group.size for group in graph.prunable}}
    for group in graph.prunable:
        if names is not None and group.name not in names:
            continue
        order = torch.randperm(group.size, generator=generator)
        keep[group.start + order[next(counts[group.size]) :]] = False
    return keep


def trial_counts(size: int) -> list[int]:
    """All counts below a size: those from a third to five sixths of it first.

    Of them, first those that share no divisor with the size, so that a width that the code divides
    or compares does not come out right by chance.
    """

    def order(count: int) -> tuple[bool, bool, float]:
        central = size / 3 <= count <= size / 1.2
        return not central, gcd(count, size) > 1, abs(count - 0.6 * size)

    return sorted(range(1, size), key=order)


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
        elif tensor.is_floating_point() and tensor.numel() == 1 and not bool(tensor):
            tensor.fill_(0.7)  # a gate that starts closed
        elif isinstance(tensor, nn.Parameter):
            parts = torch.view_as_real(tensor) if tensor.is_complex() else tensor
            if is_constant(parts):
                zero = float(parts.flatten()[0]) == 0
                parts.normal_(std=0.5) if zero else parts.uniform_(0.5, 1.5)


def count_macs(model: nn.Module, example: Any) -> int:
    """MACs of one example by torch's flop counter, which counts two for each.

    Args:
        model: the network.
        example: what it is called with, in any form that `trace` takes.
    """
    call = Call.of(example)
    with torch.no_grad():
        return counted(lambda: call(model))[1] // call.batch


def counted(run: Callable[[], T]) -> tuple[T, int]:
    """What a function returns, and the MACs of all that it runs, by torch's flop counter.

    Attention layers are run operator by operator: the counter does not see into the fused one.
    """
    from torch.utils.flop_counter import FlopCounterMode  # a quarter of the time to import dsa_core

    counter = FlopCounterMode(display=False)
    modules: Any = nullcontext()  # the counter's own record fails where one is given a parameter
    modules.parents = ("Global",)  # what the counter reads
    counter.mod_tracker = modules
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with counter:
            returned = run()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return returned, counter.get_total_flops() // 2
