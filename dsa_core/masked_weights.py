"""A network under a mask, in place: multiply the weights, read the mask's gradient, put them back.

Everything here works on values behind autograd's back (`Tensor.data`): a mask that is swapped for
an evaluation between a forward and its backward pass disturbs neither.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dsa_core.channels import ChannelGraph
from dsa_core.errors import ConfigError


@dataclass(frozen=True)
class Site:
    """Where entries of a mask multiply a weight: `weight * mask[index].reshape(shape)`.

    Attributes:
        name: of the parameter.
        index: entry of the mask for each of the slices, int64; -1: the slice always stays.
        shape: that broadcasts the entries against the weight: -1 on the channel axis, 1 elsewhere.
    """

    name: str
    index: Tensor
    shape: tuple[int, ...]


def consumer_sites(graph: ChannelGraph) -> tuple[Site, ...]:
    """The input-channel slices of every layer that reads a channel: dropping them removes it."""
    shapes = {layer.weight: layer.shape for layer in graph.layers}
    return tuple(
        Site(name, channels, tuple(-1 if a == axis else 1 for a in range(len(shapes[name]))))
        for name, axis, channels in graph.consumers
    )


class MaskedWeights:
    """The weights of some sites, exact or under a mask m.

        put_on(m)    w <- w * m; the exact values are kept aside
        turn()       with w.grad = dL/d(w m):  g_i = sum over the slices of i of w * dL/d(w m),
                     which is dL/dm_i;  then  w.grad <- m * w.grad, which is dL/dw
        take_off()   w <- the exact values, bit for bit

    The gradient g exists for kept and for dropped channels alike, because the mask multiplies
    weights, not activations. Weights frozen by the user get `requires_grad=True` while this object
    lives, because g needs their gradient; it is dropped afterwards, and `close` restores the flag.

    Args:
        parameters: of the network, by name.
        sites: where the mask multiplies.
        n: entries of a mask.
    """

    def __init__(
        self, parameters: Mapping[str, torch.nn.Parameter], sites: Sequence[Site], n: int
    ) -> None:
        self.n = n
        self.sites = [(parameters[site.name], site) for site in sites]
        self.exact = [weight.detach().clone() for weight, _ in self.sites]
        self.values: list[Tensor] = []  # the mask's entries at each site; empty: weights are exact
        self.frozen = [weight for weight, _ in self.sites if not weight.requires_grad]
        for weight in self.frozen:
            weight.requires_grad_(True)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.sites[0][0].device if self.sites else torch.device("cpu")

    @property
    def on(self) -> bool:
        """Whether the weights are masked."""
        return bool(self.values)

    def put_on(self, mask: Tensor) -> None:
        """Mask the weights, in place of a mask that is on."""
        if mask.shape != (self.n,):
            raise ConfigError(f"mask: wanted shape ({self.n},), got {tuple(mask.shape)}")
        extended = torch.cat([mask.detach(), mask.new_ones(1)])  # place -1
        fresh = not self.on
        if fresh:
            self.exact = [e.to(w.data) for (w, _), e in zip(self.sites, self.exact, strict=True)]
        self.values = []
        for (weight, site), exact in zip(self.sites, self.exact, strict=True):
            if fresh:
                exact.copy_(weight.data)
            picked = extended[site.index.to(mask.device)].to(weight)
            self.values.append(picked.reshape(site.shape))
            torch.mul(exact, self.values[-1], out=weight.data)
        torch.clear_autocast_cache()  # of low-precision copies made under the previous mask

    @torch.no_grad()
    def slopes(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """dL/dm, shape (n,), from dL/d(w m) of every site; None where the loss does not reach."""
        some = self.exact[0]
        kind = torch.promote_types(torch.float32, some.dtype)
        total = torch.zeros(self.n + 1, dtype=kind, device=some.device)  # the last: place -1
        for (_, site), exact, value, gradient in zip(
            self.sites, self.exact, self.values, gradients, strict=True
        ):
            if gradient is None:
                continue
            along = [axis for axis, length in enumerate(value.shape) if length == 1]
            product = exact * gradient
            each = product.sum(along) if along else product
            places = site.index.to(total.device) % len(total)
            total.index_add_(0, places, each.reshape(-1).to(total))
        return total[:-1]

    @torch.no_grad()
    def turn(self, *, frozen_scale: float = 1.0) -> Tensor:
        """Return dL/dm, shape (n,), and turn the gradients into those of the exact weights.

        A step ends here: autograd then refuses a backward pass through a graph made before it.

        Args:
            frozen_scale: factor of a scaled loss that the gradients of frozen weights still carry
                (nobody unscales them: they are in no optimizer).
        """
        for weight in self.frozen:
            if weight.grad is not None:
                weight.grad.div_(frozen_scale)
        found = self.slopes([weight.grad for weight, _ in self.sites])
        self.drop_frozen_gradients()
        for (weight, _), value in zip(self.sites, self.values, strict=True):
            if weight.grad is not None:
                weight.grad.mul_(value)
        torch.autograd.graph.increment_version([weight for weight, _ in self.sites])
        return found

    def drop_frozen_gradients(self) -> None:
        """Drop the gradients of frozen weights."""
        for weight in self.frozen:
            weight.grad = None

    def take_off(self) -> None:
        """Put the exact weights back; nothing happens if they are there."""
        if self.on:
            for (weight, _), exact in zip(self.sites, self.exact, strict=True):
                weight.data.copy_(exact)
            torch.clear_autocast_cache()
        self.values = []

    def aside(self) -> dict[int, Tensor]:
        """The exact values by the parameter's `id`, while a mask is on."""
        pairs = zip(self.sites, self.exact, strict=True)
        return {id(weight): exact for (weight, _), exact in pairs} if self.on else {}

    def copy_exact(self, memo: dict[int, Any]) -> None:
        """Called while the network is deep-copied: unmasked weights and the original flags for it.

        Args:
            memo: of that `copy.deepcopy`.
        """
        for weight in self.frozen:
            copy.deepcopy(weight, memo).requires_grad_(False)
        for (weight, _), exact in zip(self.sites, self.exact, strict=True):
            if self.on:
                copy.deepcopy(weight, memo).data.copy_(exact)

    def close(self) -> None:
        """Put everything back as it was found."""
        self.take_off()
        self.drop_frozen_gradients()
        for weight in self.frozen:
            weight.requires_grad_(False)
