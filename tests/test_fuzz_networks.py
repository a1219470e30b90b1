"""Random networks of many kinds of operators: each is cut rightly, or refused; none cut wrongly.

A hundred networks; thousands in `make check`.
"""

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import settings
from problems_networks import Part, agrees, conv
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from dsa_core.errors import TraceError
from dsa_core.tracing import trace

CASES, PARTS = settings.default.max_examples, 10
X = torch.zeros(2, 3, 6, 6)
Function = Callable[["Block", Tensor], Tensor]


class Block(Part):
    """A function of the modules `l`, numbers and tensors that it holds; `join` reads what came
    before the last block, which is added."""

    def __init__(
        self, function: Function, *layers: nn.Module, c: int = 0,
        join: nn.Module | None = None, **held: Tensor,
    ) -> None:  # fmt: skip
        super().__init__(function, l=nn.ModuleList(layers), c=c, half=c // 2, join=join, **held)

    def forward(self, x: Tensor, older: Tensor) -> Tensor:
        y = super().forward(x)
        return y if self.join is None else y + self.join(older).tanh()


def channels_last(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return function(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def rows(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H W, C)."""
    return x.flatten(2).transpose(1, 2)


def space(x: Tensor) -> Tensor:
    """(N, H W, C) -> (N, C, H, W)."""
    return x.transpose(1, 2).unflatten(2, (6, 6))


def shuffled(x: Tensor, pieces: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, pieces, c // pieces, h, w).transpose(1, 2).reshape(n, c, h, w)


def attended(b: Block, x: Tensor) -> Tensor:
    q, k, v = b.l[0](rows(x)).chunk(3, -1)
    return x + space(F.scaled_dot_product_attention(q, k, v))


def heads(b: Block, x: Tensor) -> Tensor:
    q, k, v = b.l[0](rows(x)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
    return space(((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).flatten(2))


def written(b: Block, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :, :2] = x[:, :, :2]
    return y


def par(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.rand(shape) + 0.5)


# kind -> a block for `c` channels, on images of 6 x 6; `older` is what came before the last block
KINDS: dict[str, Callable[[int], Block]] = {
    "conv": lambda c: Block(lambda b, x: b.l[0](x).relu(), conv(c, 12)),
    "conv norm": lambda c: Block(lambda b, x: b.l[1](b.l[0](x)), conv(c, 8), nn.BatchNorm2d(8)),
    "grouped": lambda c: Block(lambda b, x: b.l[0](x), conv(c, 8, groups=2)),
    "depthwise": lambda c: Block(lambda b, x: b.l[0](x), conv(c, c, groups=c)),
    "depthwise twice": lambda c: Block(lambda b, x: b.l[0](x), conv(c, 2 * c, groups=c)),
    "transposed": lambda c: Block(lambda b, x: b.l[0](x), nn.ConvTranspose2d(c, 8, 1)),
    "transposed groups": lambda c: Block(
        lambda b, x: b.l[0](x), nn.ConvTranspose2d(c, 8, 1, groups=4)),
    "transposed depthwise": lambda c: Block(
        lambda b, x: b.l[0](x), nn.ConvTranspose2d(c, c, 1, groups=c)),
    "linear": lambda c: Block(lambda b, x: channels_last(b.l[0], x), nn.Linear(c, 8)),
    "matrix": lambda c: Block(lambda b, x: channels_last(lambda y: y @ b.w, x), w=par(c, 8)),
    "matrix turned": lambda c: Block(
        lambda b, x: channels_last(lambda y: y @ b.w.mT, x), w=par(8, c)),
    "einsum matrix": lambda c: Block(
        lambda b, x: channels_last(lambda y: torch.einsum("bhwc,cd->bhwd", y, b.w), x),
        w=par(c, 8)),
    "einsum": lambda c: Block(
        lambda b, x: x * torch.einsum("bchw,bchw->b", x, x).sigmoid()[:, None, None, None]),
    "weight norm": lambda c: Block(
        lambda b, x: b.l[0](x), parametrizations.weight_norm(conv(c, 8))),
    "spectral norm": lambda c: Block(
        lambda b, x: b.l[0](x), parametrizations.spectral_norm(conv(c, 8))),
    "pruned weights": lambda c: Block(
        lambda b, x: b.l[0](x), prune.random_unstructured(conv(c, 8), "weight", 0.5)),
    "standardised": lambda c: Block(
        lambda b, x: F.conv2d(x, b.w - b.w.mean((1, 2, 3), keepdim=True)), w=par(8, c, 1, 1)),
    "residual": lambda c: Block(lambda b, x: x + b.l[0](x).relu(), conv(c, c)),
    "long residual": lambda c: Block(
        lambda b, x: b.l[0](x), conv(c, 8), join=nn.LazyConv2d(8, 1)),
    "dense": lambda c: Block(lambda b, x: torch.cat([x, b.l[0](x)], 1), conv(c, 4)),
    "stacked": lambda c: Block(lambda b, x: torch.stack([x, b.l[0](x)]).sum(0), conv(c, c)),
    "side by side": lambda c: Block(
        lambda b, x: F.avg_pool2d(torch.cat([x, b.l[0](x)], 2), (2, 1)), conv(c, c)),
    "gate": lambda c: Block(
        lambda b, x: x * b.l[1](b.l[0](x.mean((2, 3))).relu()).sigmoid()[..., None, None],
        nn.Linear(c, 4), nn.Linear(4, c)),
    "spatial gate": lambda c: Block(lambda b, x: x * b.l[0](x).sigmoid(), conv(c, 1)),
    "shuffle halves": lambda c: Block(lambda b, x: shuffled(x, 2)),
    "shuffle pairs": lambda c: Block(lambda b, x: shuffled(x, x.shape[1] // 2)),
    "module shuffle": lambda c: Block(lambda b, x: b.l[0](x), nn.ChannelShuffle(2)),
    "swap halves": lambda c: Block(lambda b, x: torch.cat(x.chunk(2, 1)[::-1], 1)),
    "swap by slices": lambda c: Block(
        lambda b, x: torch.cat([x[:, x.shape[1] // 2 :], x[:, : x.shape[1] // 2]], 1)),
    "swap by attribute": lambda c: Block(
        lambda b, x: torch.cat(x.split(b.half, 1)[::-1], 1), c=c),
    "swap by number": lambda c: Block(
        lambda b, x, n=c // 2: torch.cat([x[:, n:], x[:, :n]], 1)),
    "part of the channels": lambda c: Block(
        lambda b, x, n=c // 4: torch.cat([b.l[0](x[:, :n]), x[:, n:]], 1), conv(c // 4, c // 4)),
    "first three": lambda c: Block(lambda b, x: b.l[0](x[:, :3]), conv(3, 8)),
    "glu": lambda c: Block(lambda b, x: F.glu(b.l[0](x), 1), conv(c, 16)),
    "maxout": lambda c: Block(
        lambda b, x: b.l[0](x).unflatten(1, (2, -1)).amax(1), conv(c, 16)),
    "unbound": lambda c: Block(
        lambda b, x: torch.mul(*b.l[0](x).unflatten(1, (-1, 2)).unbind(2)), conv(c, 16)),
    "group norm": lambda c: Block(lambda b, x: b.l[0](x), nn.GroupNorm(c // 2, c)),
    "group norm by attribute": lambda c: Block(lambda b, x: F.group_norm(x, b.half), c=c),
    "group norm by number": lambda c: Block(lambda b, x: F.group_norm(x, 2)),
    "layer norm": lambda c: Block(lambda b, x: channels_last(b.l[0], x), nn.LayerNorm(c)),
    "batch norm": lambda c: Block(lambda b, x: b.l[0](x), nn.BatchNorm2d(c, affine=False)),
    "instance norm": lambda c: Block(
        lambda b, x: b.l[0](x), nn.InstanceNorm2d(c, affine=True, track_running_stats=True)),
    "prelu": lambda c: Block(lambda b, x: b.l[0](x), nn.PReLU(c)),
    "scaled": lambda c: Block(lambda b, x: x * b.w[:, None, None], w=par(c)),
    "shifted": lambda c: Block(lambda b, x: x + b.w.exp(), w=par(1, c, 1, 1)),
    "one scale": lambda c: Block(lambda b, x: x * b.w, w=par(1)),
    "constant": lambda c: Block(lambda b, x: x + b.w, w=torch.rand(c, 1, 1)),
    "pooled": lambda c: Block(
        lambda b, x: F.interpolate(F.max_pool2d(x, 2), scale_factor=2, mode="bilinear")),
    "unpooled": lambda c: Block(
        lambda b, x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)),
    "unfolded": lambda c: Block(
        lambda b, x: F.fold(F.unfold(x, 2, stride=2) * 2, 6, 2, stride=2)),
    "pixels": lambda c: Block(lambda b, x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2)),
    "flipped": lambda c: Block(lambda b, x: x.flip(1, 3)),
    "rolled": lambda c: Block(lambda b, x: x.roll(1, 2).roll(1, 1)),
    "padded": lambda c: Block(lambda b, x: F.pad(x, (0, 0, 0, 0, 0, 4))),
    "repeated": lambda c: Block(lambda b, x: x.repeat(1, 2, 1, 1)),
    "interleaved": lambda c: Block(lambda b, x: x.repeat_interleave(2, 1)),
    "zeros": lambda c: Block(lambda b, x: torch.cat([x, torch.zeros_like(x)], 1)),
    "zeros of an attribute": lambda c: Block(
        lambda b, x: x + torch.zeros(len(x), b.c, 6, 6, dtype=x.dtype), c=c),
    "root of the width": lambda c: Block(lambda b, x: x / x.shape[1] ** 0.5),
    "numel": lambda c: Block(lambda b, x: 8 * x / x[0].numel()),
    "branch": lambda c: Block(lambda b, x, c=c: x.relu() if x.shape[1] == c else x),
    "view by number": lambda c: Block(
        lambda b, x, c=c: x * x.mean((2, 3)).view(-1, c, 1, 1)),
    "view by attribute": lambda c: Block(lambda b, x: x * x.mean((2, 3)).view(-1, b.c, 1, 1), c=c),
    "blur": lambda c: Block(
        lambda b, x: F.conv2d(x, b.w, padding=1, groups=b.c), c=c, w=torch.rand(c, 1, 3, 3)),
    "numbered": lambda c: Block(lambda b, x: x + torch.arange(x.shape[1])[:, None, None]),
    "softmax over space": lambda c: Block(lambda b, x: x.flatten(2).softmax(2).view_as(x)),
    "softmax over channels": lambda c: Block(lambda b, x: x.softmax(1)),
    "sums": lambda c: Block(lambda b, x: x.cumsum(3)),
    "sorted": lambda c: Block(lambda b, x: x.sort(3)[0]),
    "ordered channels": lambda c: Block(lambda b, x: x.sort(1)[0]),
    "top": lambda c: Block(lambda b, x: x * x.topk(1, 3)[0]),
    "mean of channels": lambda c: Block(lambda b, x: x * x.mean(1, keepdim=True).sigmoid()),
    "normalised": lambda c: Block(lambda b, x: F.normalize(x, dim=1)),
    "attention": lambda c: Block(attended, nn.Linear(c, 3 * c)),
    "heads": lambda c: Block(heads, nn.Linear(c, 24)),
    "attention module": lambda c: Block(
        lambda b, x: space(b.l[0](rows(x), rows(x), rows(x), need_weights=False)[0]),
        nn.MultiheadAttention(c, 2, batch_first=True)),
    "recurrent": lambda c: Block(
        lambda b, x: space(b.l[0](rows(x))[0]), nn.GRU(c, 8, batch_first=True)),
    "picked": lambda c: Block(lambda b, x: x[:, b.w], w=torch.arange(4)),
    "written in place": lambda c: Block(written),
    "over space": lambda c: Block(lambda b, x: b.l[0](x), nn.Linear(6, 6)),
    "mixed tokens": lambda c: Block(
        lambda b, x: b.l[0](x.flatten(2)).view_as(x), nn.Linear(36, 36)),
}  # fmt: skip


class Grown(nn.Module):
    """A stem, blocks of the given kinds, a head; widths that grow large are brought down."""

    def __init__(self, kinds: list[str]) -> None:
        super().__init__()
        self.stem, self.blocks = conv(3, 8), nn.ModuleList()
        x = older = self.stem(X)
        for kind in kinds:
            if x.shape[1] > 16:
                kind = "conv"
            block = KINDS[kind](x.shape[1])
            older, x = x, block(x, older)
            self.blocks.append(block)
        self.head = nn.Linear(x.shape[1], 3)

    def forward(self, x: Tensor) -> Tensor:
        x = older = self.stem(x)
        for block in self.blocks:
            older, x = x, block(x, older)
        return self.head(x.mean((2, 3)))


def network(seed: int) -> tuple[list[str], nn.Module]:
    """The network of a seed, and the kinds of its blocks; each kind comes first in some seed."""
    drawn, names = random.Random(seed), sorted(KINDS)
    kinds = [names[seed % len(names)], *drawn.choices(names, k=drawn.randint(1, 4))]
    torch.manual_seed(seed)
    with torch.no_grad():
        model = Grown(kinds)
    return kinds, model


@pytest.mark.fuzz
@pytest.mark.parametrize("part", range(PARTS))
def test_random_networks_are_cut_rightly_or_refused(part: int) -> None:
    refused = 0
    for seed in range(part, CASES, PARTS):
        kinds, model = network(seed)
        try:
            graph = trace(model, X)
            if graph.prunable:
                agrees(model, graph, X, files=True)
        except TraceError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {kinds}: {error}") from error
    assert refused < 0.2 * CASES / PARTS  # otherwise this would hold for want of networks
