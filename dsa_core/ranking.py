"""Importance of the prunable channels, which ranks the channels of a group."""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dsa_core.channels import ChannelGraph
from dsa_core.errors import ConfigError

Importance = Literal["gamma_first", "gamma_all", "l1", "l2", "taylor"]
TINY = 1e-12


def importance(model: nn.Module, graph: ChannelGraph, kind: Importance = "gamma_first") -> Tensor:
    """The importance b > 0 of every prunable channel.

    Args:
        kind:
            "gamma_first": |gamma| of the first BatchNorm of the group, as the DSA authors' released
                code has it;
            "gamma_all": the mean of |gamma| over all BatchNorms that hold the channel;
            "l1", "l2": norm of all weights that produce the channel;
            "taylor": |sum of weight * gradient| over the layers that read the channel: the
                first-order change of the loss when it is removed (call after a backward pass).

            Groups without a BatchNorm use "l1" instead of a gamma.

    Returns:
        b, shape (graph.n_channels,), detached: no gradient flows into gamma through the masks
        (DSA).
    """
    if kind not in get_args(Importance):
        raise ConfigError(f"importance must be one of {get_args(Importance)}, got {kind!r}")
    state = dict(model.named_parameters())
    if kind == "taylor":
        return taylor(state, graph)
    if kind in ("l1", "l2"):
        return weight_norm(state, graph, 1 if kind == "l1" else 2)
    return scales(state, graph, first=kind == "gamma_first")


def scales(state: Mapping[str, Tensor], graph: ChannelGraph, *, first: bool) -> Tensor:
    """|gamma| of every channel: of its first BatchNorm, or the mean over all."""
    if first and bool((graph.first_scales >= 0).all()):
        scale = torch.cat([state[norm.weight].detach() for norm in graph.norms])
        places = graph.first_scales.to(scale.device)
        return scale.index_select(0, places).abs().float().clamp_min(TINY)
    return scales_one_by_one(state, graph, first=first)


def scales_one_by_one(state: Mapping[str, Tensor], graph: ChannelGraph, *, first: bool) -> Tensor:
    """The same, one BatchNorm at a time; channels without one use "l1"."""
    some = next(iter(state.values()))
    total = torch.zeros(graph.n_channels, device=some.device, dtype=torch.float32)
    times = torch.zeros_like(total)
    for norm in graph.norms:
        gamma = state[norm.weight].detach().abs().float()
        here = norm.channels.to(total.device)
        use = here >= 0
        if first:
            use &= times[here.clamp_min(0)] == 0
        total.index_add_(0, here[use], gamma[use])
        times.index_add_(0, here[use], torch.ones_like(gamma[use]))
    fallback = weight_norm(state, graph, 1) if bool((times == 0).any()) else total
    return torch.where(times > 0, total / times.clamp_min(1), fallback).clamp_min(TINY)


def weight_norm(state: Mapping[str, Tensor], graph: ChannelGraph, order: int) -> Tensor:
    """The norm of all weights that produce each channel (order 1 or 2)."""
    some = next(iter(state.values()))
    total = torch.zeros(graph.n_channels, device=some.device, dtype=torch.float32)
    for name, axis, channels in graph.producers:
        powers = state[name].detach().float().abs() ** order
        add_at(total, channels, powers.movedim(axis, 0).flatten(1).sum(1))
    return (total ** (1.0 / order)).clamp_min(TINY)


def taylor(state: Mapping[str, Tensor], graph: ChannelGraph) -> Tensor:
    """|sum over consumers of weight * gradient|: the first-order loss of removing a channel."""
    some = next(iter(state.values()))
    total = torch.zeros(graph.n_channels, device=some.device, dtype=torch.float32)
    for name, axis, channels in graph.consumers:
        weight = state[name]
        if weight.grad is None:
            raise ValueError(
                f"importance 'taylor' needs gradients: {name} has none; call backward() first"
            )
        product = (weight.detach() * weight.grad).float()
        add_at(total, channels, product.movedim(axis, 0).flatten(1).sum(1))
    return total.abs().clamp_min(TINY)


def add_at(total: Tensor, channels: Tensor, values: Tensor) -> None:
    """Add values (n,) at flat channels (n,), skipping channels that always stay."""
    channels = channels.to(total.device)
    total.index_add_(0, channels[channels >= 0], values[channels >= 0])
