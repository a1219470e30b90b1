"""Attention whose own forward writes its widths into the code: the same parameters and numbers, by
a forward that takes widths from its weights, so that heads can be followed and cut."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HeadsApart(nn.MultiheadAttention):
    """`nn.MultiheadAttention` of as many heads as its projections have room for."""

    # So that torch's encoder layers call `forward`, and not their own kernel.
    _qkv_same_embed_dim = property(lambda self: False)

    @property
    def num_heads(self) -> int:
        """How many there are."""
        return self.out_proj.weight.shape[1] // self.head_dim

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """See `nn.MultiheadAttention.forward`."""
        batched = query.dim() == 3
        q, k, v = (self._apart(x, batched) for x in self._projected(query, key, value))
        mask = self._mask(q, key_padding_mask, attn_mask)
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            scores = q * self.head_dim**-0.5 @ k.mT
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
            y = weights @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        y = y.permute((0, 2, 1, 3) if self.batch_first or not batched else (2, 0, 1, 3)).flatten(2)
        y = self.out_proj(y if batched else y[0])
        if not need_weights:
            return y, None
        seen = weights.mean(1) if average_attn_weights else weights
        return y, seen if batched else seen[0]

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> Collection[Tensor]:
        if self.in_proj_weight is not None and query is key is value:
            return F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        weights = (
            (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
            if self.in_proj_weight is None
            else self.in_proj_weight.chunk(3)
        )
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        inputs = (query, key, value)
        return [F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]

    def _apart(self, x: Tensor, batched: bool) -> Tensor:
        """(batch, tokens, heads x d) or as torch has it -> (batch, heads, tokens, d)."""
        x = (x if batched else x[None]).unflatten(-1, (-1, self.head_dim))
        return x.transpose(1, 2) if self.batch_first or not batched else x.permute(1, 2, 0, 3)

    def _mask(self, q: Tensor, padding: Tensor | None, given: Tensor | None) -> Tensor | None:
        """What is added to the scores: minus infinity where a mask is true."""
        masks = [] if padding is None else [padding.reshape(-1, 1, 1, padding.shape[-1])]
        if given is not None:
            masks.append(given if given.dim() == 2 else given.unflatten(0, (len(q), -1)))
        total = None
        for mask in masks:
            if mask.dtype == torch.bool:
                mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, -torch.inf)
            total = mask if total is None else total + mask
        return total


class WindowHeads(nn.Module):
    """torchvision's `ShiftedWindowAttention` (of Swin), of as many heads as its table of biases."""

    @property
    def num_heads(self) -> int:
        """How many there are."""
        table: Any = self.relative_position_bias_table
        return int(table.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, channels) -> the same."""
        here: Any = self
        height, width = x.shape[1:3]
        (a, b), table = here.window_size, here.relative_position_bias_table
        x = F.pad(x, (0, 0, 0, -width % b, 0, -height % a))
        n, rows, columns, _ = x.shape
        shift = [0 if w >= s else by for w, s, by in
                 zip((a, b), (rows, columns), here.shift_size, strict=True)]  # fmt: skip
        x = x.roll((-shift[0], -shift[1]), (1, 2)) if any(shift) else x
        size = here.qkv.weight.shape[0] // 3 // self.num_heads
        q, k, v = here.qkv(windows(x, a, b)).unflatten(-1, (3, -1, size)).unbind(-3)
        bias = table[here.relative_position_index].unflatten(0, (a * b, a * b)).permute(2, 0, 1)
        scores = q.transpose(1, 2) * size**-0.5 @ k.permute(0, 2, 3, 1) + bias
        if any(shift):
            scores = scores + apart(x.new_zeros(1, rows, columns, 1), (a, b), shift, n)
        weights = F.dropout(scores.softmax(-1), here.attention_dropout, here.training)
        y = here.proj((weights @ v.transpose(1, 2)).transpose(1, 2).flatten(2))
        y = F.dropout(y, here.dropout, here.training).reshape(n, rows // a, columns // b, a, b, -1)
        y = y.transpose(2, 3).reshape(n, rows, columns, -1)
        y = y.roll((shift[0], shift[1]), (1, 2)) if any(shift) else y
        return y[:, :height, :width].contiguous()


def windows(x: Tensor, a: int, b: int) -> Tensor:
    """(batch, height, width, channels) -> (batch x windows, a b tokens, channels)."""
    n, height, width, channels = x.shape
    x = x.reshape(n, height // a, a, width // b, b, channels).transpose(2, 3)
    return x.reshape(-1, a * b, channels)


def apart(region: Tensor, size: tuple[int, int], shift: list[int], n: int) -> Tensor:
    """-100 between tokens of one window that the shift brought together, (n windows, 1, t, t)."""
    for axis, (w, by) in enumerate(zip(size, shift, strict=True), start=1):
        places = torch.arange(region.shape[axis], device=region.device)
        last, wrapped = places >= len(places) - w, places >= len(places) - by
        part = last.to(region) + wrapped.to(region) * (by > 0)
        region = 3 * region + part.reshape([-1 if i == axis else 1 for i in range(4)])
    tokens = windows(region, *size)[..., 0]
    return (-100.0 * (tokens[:, None] != tokens[:, :, None]).to(region)).repeat(n, 1, 1)[:, None]


def stand_in(module: nn.Module) -> type[nn.Module] | None:
    """The class that computes what a module does and lets its heads be cut, if it needs one."""
    kind = type(module)
    if kind is nn.MultiheadAttention and module.bias_k is None and not module.add_zero_attn:
        return HeadsApart
    swin = ("torchvision.models.swin_transformer", "ShiftedWindowAttention")
    return WindowHeads if (kind.__module__, kind.__name__) == swin else None


def holds(path: str, tensors: Collection[str]) -> bool:
    """Whether one of these tensors, by name, is the own of the module at a path or its parts'."""
    return any(f".{name}".startswith(f".{path}." * bool(path)) for name in tensors)


def stand_in_where_cut(model: nn.Module, tensors: Collection[str]) -> None:
    """Put stand-ins where a module holds one of these tensors."""
    for path, module in model.named_modules():
        kind = stand_in(module)
        if kind is not None and holds(path, tensors):
            module.__class__ = kind
    for encoder in model.modules():  # nested tensors are for attention that is all torch's
        if isinstance(encoder, nn.TransformerEncoder):
            apart = any(isinstance(part, HeadsApart) for part in encoder.modules())
            encoder.use_nested_tensor &= not apart


@contextmanager
def standing_in(model: nn.Module) -> Iterator[None]:
    """The network with all stand-ins for the length of a block."""
    swapped = {m: type(m) for m in model.modules() if stand_in(m) is not None}
    try:
        for module in swapped:
            module.__class__ = stand_in(module) or type(module)
        yield
    finally:
        for module, kind in swapped.items():
            module.__class__ = kind
