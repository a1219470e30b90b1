"""Importance of the prunable channels, which ranks the channels of a group."""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.weight_norm import WeightNorm

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

            Groups without a BatchNorm use "l1" instead of a gamma. Of a parametrized layer
            (`weight_norm`) the norm is that of the weight it computes.

    Returns:
        b, shape (graph.n_channels,), detached: no gradient flows into gamma through the masks
        (DSA).
    """
    if kind not in get_args(Importance):
        raise ConfigError(f"importance must be one of {get_args(Importance)}, got {kind!r}")
    state: dict[str, Tensor] = dict(model.named_parameters())
    if kind == "taylor":
        return taylor(state, graph)
    state |= computed(model, state, graph)
    if kind in ("l1", "l2"):
        return weight_norm(state, graph, 1 if kind == "l1" else 2)
    gamma, found = first_scale(state, graph) if kind == "gamma_first" else mean_scale(state, graph)
    if not bool(found.all()):
        gamma = torch.where(found.to(gamma.device), gamma, weight_norm(state, graph, 1))
    return gamma.clamp_min(TINY)


def first_scale(state: Mapping[str, Tensor], graph: ChannelGraph) -> tuple[Tensor, Tensor]:
    """|gamma| of every channel's first BatchNorm, and whether it passes one."""
    none = zeros(state, graph)[:1]  # place -1
    scale = torch.cat([*(state[norm.weight].detach() for norm in graph.norms), none])
    places = graph.first_scales.to(scale.device)
    return scale[places].abs().float(), graph.first_scales >= 0  # on the CPU: no wait for a GPU


def mean_scale(state: Mapping[str, Tensor], graph: ChannelGraph) -> tuple[Tensor, Tensor]:
    """The mean of |gamma| over all of a channel's BatchNorms, and whether it passes one."""
    total, times = zeros(state, graph), zeros(state, graph)
    for norm in graph.norms:
        gamma = state[norm.weight].detach().abs().float()
        add_at(total, norm.channels, gamma)
        add_at(times, norm.channels, torch.ones_like(gamma))
    return total / times.clamp_min(1), times > 0


def computed(
    model: nn.Module, state: Mapping[str, Tensor], graph: ChannelGraph
) -> dict[str, Tensor]:
    """The weights that parametrized layers compute, in place of the parameters of that shape."""
    found = {}
    for name, _, _ in graph.producers:
        owner, inside, rest = name.partition(".parametrizations.")
        if inside:
            found[name] = getattr(model.get_submodule(owner), rest.split(".")[0])
        elif name.endswith("_v"):  # torch.nn.utils.weight_norm, by a hook
            layer = model.get_submodule(name.rpartition(".")[0])
            for norm in layer._forward_pre_hooks.values():
                if isinstance(norm, WeightNorm) and name.endswith(f"{norm.name}_v"):
                    found[name] = norm.compute_weight(layer)
    return {name: weight for name, weight in found.items() if weight.shape == state[name].shape}


def zeros(state: Mapping[str, Tensor], graph: ChannelGraph) -> Tensor:
    """A zero for every channel, where the weights are."""
    device = next(iter(state.values())).device
    return torch.zeros(graph.n_channels, device=device, dtype=torch.float32)


def weight_norm(state: Mapping[str, Tensor], graph: ChannelGraph, order: int) -> Tensor:
    """The norm of all weights that produce each channel (order 1 or 2)."""
    total = zeros(state, graph)
    for name, axis, channels in graph.producers:
        powers = state[name].detach().float().abs() ** order
        add_at(total, channels, powers.movedim(axis, 0).flatten(1).sum(1))
    return (total ** (1.0 / order)).clamp_min(TINY)


def taylor(state: Mapping[str, Tensor], graph: ChannelGraph) -> Tensor:
    """|sum over consumers of weight * gradient|: the first-order loss of removing a channel."""
    total = zeros(state, graph)
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
