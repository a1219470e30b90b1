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
from dsa_core.errors import ConfigError, TrainingError

# A mask below this is put on as 0: it is lost to rounding beside 1 in any precision, but products
# with it are denormal, and some processors take twenty times as long over those.
NEGLIGIBLE = 1e-20


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
        self.weights = [parameters[site.name] for site in sites]
        self.shapes = [site.shape for site in sites]
        self.lengths = [len(site.index) for site in sites]
        index = torch.cat([torch.zeros(0, dtype=torch.int64), *(site.index for site in sites)])
        in_order = torch.equal(index, torch.arange(n))  # single weights: no need to pick
        self.index = None if in_order else (index % (n + 1)).to(self.device)
        self.exact = [weight.detach().clone() for weight in self.weights]
        self.values: list[Tensor] = []  # the mask's entries at each site; empty: weights are exact
        self.versions: list[int] = []  # of the weights, when the mask was put on
        self.reached: list[bool] = []  # whether a gradient has come to each weight under a mask
        self.frozen = [weight for weight in self.weights if not weight.requires_grad]
        for weight in self.frozen:
            weight.requires_grad_(True)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weights[0].device if self.weights else torch.device("cpu")

    @property
    def on(self) -> bool:
        """Whether the weights are masked."""
        return bool(self.values)

    def put_on(self, mask: Tensor) -> None:
        """Mask the weights, in place of a mask that is on."""
        if mask.shape != (self.n,):
            raise ConfigError(f"mask: wanted shape ({self.n},), got {tuple(mask.shape)}")
        if not self.weights:
            return
        data, mask = [weight.data for weight in self.weights], mask.detach()
        if self.on:
            torch._foreach_copy_(data, self.exact)
        else:
            self.exact = [e.to(w) for w, e in zip(data, self.exact, strict=True)]
            torch._foreach_copy_(self.exact, data)
        if self.index is not None:
            mask = torch.cat([mask, mask.new_ones(1)])[self.index.to(mask.device)]  # place -1
        mask = mask.where(mask.abs() >= NEGLIGIBLE, 0)
        parts = zip(mask.split(self.lengths), data, self.shapes, strict=True)
        self.values = [part.to(weight).view(shape) for part, weight, shape in parts]
        torch._foreach_mul_(data, self.values)
        self.versions = [weight._version for weight in self.weights]  # `.data` leaves it as it is
        torch.clear_autocast_cache()  # of low-precision copies made under the previous mask

    @torch.no_grad()
    def slopes(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """dL/dm, shape (n,), from dL/d(w m) of every site; None where the loss does not reach."""
        parts = zip(self.exact, self.shapes, self.lengths, gradients, strict=True)
        each = torch.cat([_per_entry(*part) for part in parts])
        if self.index is None:
            return each
        return each.new_zeros(self.n + 1).index_add_(0, self.index.to(each.device), each)[:-1]

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
        gradients = [weight.grad for weight in self.weights]
        before = self.reached or [False] * len(gradients)
        self.reached = [r or g is not None for r, g in zip(before, gradients, strict=True)]
        found = self.slopes(gradients)
        self.drop_frozen_gradients()
        pairs = zip(self.weights, self.values, strict=True)
        turned = [(weight.grad, value) for weight, value in pairs if weight.grad is not None]
        if turned:
            torch._foreach_mul_(*map(list, zip(*turned, strict=True)))
        self.end_graphs()
        return found

    def end_graphs(self) -> None:
        """Let autograd refuse a backward pass through a graph of the weights as they were."""
        torch.autograd.graph.increment_version(self.weights)

    def unreached(self) -> Tensor:
        """The entries of a mask whose weights have never had a gradient, bool, shape (n,)."""
        if not self.reached:  # there was no mask
            return torch.zeros(self.n, dtype=torch.bool)
        ends = torch.tensor(self.reached).repeat_interleave(torch.tensor(self.lengths))
        index = torch.arange(self.n) if self.index is None else self.index.cpu()
        return torch.ones(self.n + 1, dtype=torch.bool).index_fill_(0, index[ends], False)[:-1]

    def drop_frozen_gradients(self) -> None:
        """Drop the gradients of frozen weights."""
        for weight in self.frozen:
            weight.grad = None

    def take_off(self) -> None:
        """Put the exact weights back; nothing happens if they are there."""
        if self.on:
            torch._foreach_copy_([weight.data for weight in self.weights], self.exact)
            torch.clear_autocast_cache()
        self.values = []

    def check_unchanged(self) -> None:
        """Refuse masked weights that someone else has changed: the mask's end would undo it.

        Raises:
            TrainingError: they were.
        """
        pairs = zip(self.weights, self.versions, strict=True) if self.on else ()
        if any(weight._version != version for weight, version in pairs):
            raise TrainingError(
                "weights of the network were changed between its forward pass and the step of an "
                "attached optimizer, while a mask was on: that would be lost. Attach the optimizer "
                "that steps, or change weights after the step"
            )

    def aside(self) -> dict[int, Tensor]:
        """The exact values by the parameter's `id`, while a mask is on."""
        pairs = zip(self.weights, self.exact, strict=True)
        return {id(weight): exact for weight, exact in pairs} if self.on else {}

    def copy_exact(self, memo: dict[int, Any]) -> None:
        """Called with the memo of a deep copy: unmasked weights and the original flags for it."""
        for weight in self.frozen:
            copy.deepcopy(weight, memo).requires_grad_(False)
        for weight, exact in zip(self.weights, self.exact, strict=True):
            if self.on:
                copy.deepcopy(weight, memo).data.copy_(exact)

    def close(self) -> None:
        """Put everything back as it was found."""
        self.take_off()
        self.drop_frozen_gradients()
        for weight in self.frozen:
            weight.requires_grad_(False)


def _per_entry(
    exact: Tensor, shape: tuple[int, ...], length: int, gradient: Tensor | None
) -> Tensor:
    """Sum w * dL/d(w m) over what each entry of a mask multiplies, shape (length,)."""
    kind = torch.promote_types(torch.float32, exact.dtype)
    if gradient is None:
        return exact.new_zeros(length, dtype=kind)
    along = [axis for axis, size in enumerate(shape) if size == 1]
    product = exact * gradient
    return (product.sum(along, dtype=kind) if along else product.to(kind)).reshape(-1)
