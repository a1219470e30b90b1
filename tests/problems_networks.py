"""Toy networks, one for each pattern that tracing must understand, with their groups by hand.

`groups` gives name -> size of every prunable group. The size counts channels that can go one by
one: where the code ties channels (conv groups, shuffles, chunks), a tied set counts once.
`frozen` gives words that must occur in the reasons of the report. `head` is never listed: its
outputs leave the network.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsa_core.channels import ChannelGraph
from dsa_core.example import Call
from dsa_core.lab.check import compare
from dsa_core.lab.models.resnet import BasicBlock, ConvShortcut, SlicePadShortcut
from dsa_core.surgery.verify import TOLERANCES, random_channels, randomise

IMAGE = (3, 8, 8)


@dataclass(frozen=True, eq=False)
class Toy:
    """A network, the shape of one input without the batch, and what tracing must find."""

    name: str
    build: Callable[[], nn.Module]
    groups: dict[str, int]
    frozen: tuple[str, ...] = ()
    shape: tuple[int, ...] = IMAGE


def conv(i: int, o: int, k: int = 3, **settings: int) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, padding=k // 2, **settings)


def cbr(i: int, o: int) -> nn.Sequential:
    return nn.Sequential(conv(i, o), nn.BatchNorm2d(o), nn.ReLU())


class Part(nn.Module):
    """`function(part, x)` of what it holds: modules, parameters, numbers, tensors as buffers."""

    def __init__(self, function: Callable[..., Any], /, **held: Any) -> None:
        super().__init__()
        self.function = function
        for name, it in held.items():
            if isinstance(it, Tensor) and not isinstance(it, nn.Parameter):
                self.register_buffer(name, it)
            else:
                setattr(self, name, it)

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


def chain(width: int, **layers: nn.Module | Callable[[Tensor], Tensor]) -> nn.Module:
    """Named layers or functions one after the other, then the mean over space, then a head."""
    net = nn.Sequential()
    for name, it in layers.items():
        net.add_module(name, it if isinstance(it, nn.Module) else Part(lambda _, x, f=it: f(x)))
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flat", nn.Flatten())
    net.add_module("head", nn.Linear(width, 3))
    return net


class Net(Part):
    """`function(net, x)` gives the features that a head reads; plain tensors become parameters."""

    def __init__(
        self, function: Callable[..., Tensor], width: int, /, **parts: nn.Module | Tensor
    ) -> None:
        made = {n: nn.Parameter(p) if isinstance(p, Tensor) else p for n, p in parts.items()}
        super().__init__(function, **made)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.function(self, x)
        return self.head(x.flatten(2).mean(2) if x.ndim == 4 else x)


def agrees(
    model: nn.Module, graph: ChannelGraph, example: Any, seed: int = 5, *, files: bool = False
) -> None:
    """Masked and pruned agree in float64 at another cut than the trace's own, and so do MACs.

    With files, so does what is saved and loaded.
    """
    model = copy.deepcopy(model).double().eval()
    call = Call.of(example).map(
        lambda t: torch.rand_like(t, dtype=torch.float64) if t.is_floating_point() else t
    )
    with torch.random.fork_rng():
        randomise(model)
        row = compare("it", model, graph, call, random_channels(graph, 0.5, seed), files=files)
    assert row.max_abs_diff is not None, row.reason
    assert row.max_abs_diff <= TOLERANCES[torch.float64]
    assert row.macs_predicted == row.macs_counted
    assert "loaded" not in row.reason, row.reason


def foreign_pad(n: nn.Module, x: Tensor) -> Tensor:
    x = n.stem(x).relu()
    short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2))
    return (n.c2(n.c1(x).relu()) + short).relu()


def shuffle(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def transformer(n: nn.Module, x: Tensor) -> Tensor:
    x = n.patch(x).flatten(2).transpose(1, 2)
    x = x + n.fc2(F.gelu(n.fc1(n.norm(x))))
    return n.norm2(x).mean(1)


def attention(n: nn.Module, x: Tensor) -> Tensor:
    x = n.patch(x).flatten(2).transpose(1, 2)
    x = x + n.mha(x, x, x, need_weights=False)[0]
    return (x + n.fc2(n.fc1(x).relu())).mean(1)


def tokens(n: nn.Module, x: Tensor) -> Tensor:
    x = n.patch(x).flatten(2).transpose(1, 2)  # (N, 4, 6)
    x = torch.cat([n.token.expand(len(x), -1, -1), x], 1) + n.place
    return n.fc(x).relu()[:, 0]


def tied_modules() -> nn.Module:
    net = chain(6, a=cbr(3, 6), t1=conv(6, 6), r=nn.ReLU(), t2=conv(6, 6), d=conv(6, 6))
    net.t2.weight = net.t1.weight
    return net


def used_twice(n: nn.Module, x: Tensor) -> Tensor:
    """A linear weight read by a layer, and again as a plain matrix: neither side can be cut."""
    x = n.a(x).relu().mean((2, 3))
    return n.c(n.fc(x).relu() @ n.fc.weight).relu()


def in_place(n: nn.Module, x: Tensor) -> Tensor:
    x = n.a(x).relu()
    y = torch.zeros_like(x)
    y[:, :, :4] = x[:, :, :4]
    return n.c(y)


def fixed_zeros(n: nn.Module, x: Tensor) -> Tensor:
    x = n.a(x)
    return n.b(torch.cat([x, x.new_zeros(len(x), 2, 8, 8)], 1) + n.d(x)).relu()


def two_parts(n: nn.Module, x: Tensor) -> Tensor:
    whole = n.d(x)
    return n.c((torch.cat([n.a(x), n.b(x)], 1) + whole).relu()).relu()


def pieces(n: nn.Module, x: Tensor) -> Tensor:
    one, two = n.a(x).unflatten(1, (2, -1)).unbind(1)
    return n.b(one * two).relu()


def dense(n: nn.Module, x: Tensor) -> Tensor:
    x = n.a(x).relu()
    for layer in (n.b, n.c):
        x = torch.cat([x, layer(x).relu()], 1)
    return x


def matrix(n: nn.Module, x: Tensor) -> Tensor:
    """(N, C, L) times (N, L, C): a product of activations, with MACs that stay."""
    x = n.a(x).relu().flatten(2)
    return n.fc2(n.fc((x @ x.transpose(1, 2)).mean(2)).tanh()).tanh()


def gate(n: nn.Module, x: Tensor) -> Tensor:
    x = n.a(x).relu()
    return x * n.up(n.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


def scaled(n: nn.Module, x: Tensor) -> Tensor:
    return n.scale * n.b(x) + x


def patches(**parts: nn.Module) -> dict[str, nn.Module]:
    return {"patch": nn.Conv2d(3, 6, 4, stride=4), **parts}


A = {"a.0": 6}
R = nn.ReLU
TOYS = [
    Toy("plain", lambda: chain(8, a=cbr(3, 6), b=cbr(6, 8)), {"a.0": 6, "b.0": 8}),
    Toy(
        "residual",
        lambda: chain(6, stem=conv(3, 4), r=R(), block=BasicBlock(4, 6, 2, shortcut=ConvShortcut)),
        {"stem": 4, "block.conv1": 6, "block.conv2": 6},
    ),
    Toy(  # 4 -> 9: two zero channels before, three after; those meet only conv2
        "slice and pad",
        lambda: chain(
            9, stem=conv(3, 4), r=R(), block=BasicBlock(4, 9, 2, shortcut=SlicePadShortcut)
        ),
        {"stem": 4, "block.conv1": 9, "block.conv2": 5},
    ),
    Toy(  # 4 -> 7: a buffer of a single element has no axis that is known to be the channels'
        "slice and pad by one",
        lambda: chain(
            7, stem=conv(3, 4), r=R(), block=BasicBlock(4, 7, 2, shortcut=SlicePadShortcut)
        ),
        {"stem": 4, "block.conv1": 7, "block.conv2": 2},
        ("as a whole",),
    ),
    Toy(
        "slice and F.pad",
        lambda: Net(foreign_pad, 7, stem=conv(3, 4), c1=conv(4, 7, stride=2), c2=conv(7, 7)),
        {"stem": 4, "c1": 7},
        ("padded by a fixed number",),
    ),
    Toy(
        "depthwise",
        lambda: chain(
            5, a=cbr(3, 6), d=conv(6, 6, groups=6), m=conv(6, 12, groups=6), p=conv(12, 5), r=R()
        ),
        {"a.0": 6, "p": 5},
    ),
    Toy(
        "conv groups",
        lambda: chain(5, a=cbr(3, 8), g=conv(8, 12, groups=4), r=R(), c=conv(12, 5)),
        {"a.0": 2, "g": 3, "c": 5},
    ),
    Toy("concat", lambda: Net(dense, 15, a=conv(3, 4), b=conv(4, 6), c=conv(10, 5)),
        {"a": 4, "b": 6, "c": 5}),
    Toy("squeeze and excite", lambda: Net(
        gate, 8, a=cbr(3, 8), down=conv(8, 4, 1), up=conv(4, 8, 1)),
        {"a.0": 8, "down": 4}),
    Toy("shuffle", lambda: chain(5, a=cbr(3, 8), s=shuffle, d=conv(8, 8, groups=8), c=conv(8, 5)),
        {"a.0": 4, "c": 5}),
    Toy("nn.ChannelShuffle", lambda: chain(5, a=cbr(3, 8), s=nn.ChannelShuffle(4), c=conv(8, 5)),
        {"a.0": 2, "c": 5}),
    Toy("pixel shuffle", lambda: chain(5, a=conv(3, 8), s=nn.PixelShuffle(2), c=conv(2, 5)),
        {"a": 2, "c": 5}),
    Toy("pixel unshuffle", lambda: chain(5, a=conv(3, 4), s=nn.PixelUnshuffle(2), c=conv(16, 5)),
        {"a": 4, "c": 5}),
    Toy(
        "flatten",
        lambda: nn.Sequential(
            conv(3, 4), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(36, 8), R(),
            nn.Linear(8, 3)
        ),
        {"0": 4, "3": 8},
    ),
    Toy("chunk", lambda: chain(
        5, a=conv(3, 8), m=lambda x: torch.mul(*x.chunk(2, 1)), c=conv(4, 5)),
        {"a": 4, "c": 5}),
    Toy("glu", lambda: chain(5, a=conv(3, 8), m=nn.GLU(1), c=conv(4, 5)), {"a": 4, "c": 5}),
    Toy("split", lambda: chain(
        5, a=conv(3, 8), m=lambda x: torch.mul(*x.split(4, 1)), c=conv(4, 5)),
        {"c": 5}, ("trial cut: the cut network cannot run: m (Part, problems_networks.py",)),
    Toy("maxout", lambda: chain(
        5, a=conv(3, 8), m=lambda x: x.view(-1, 2, x.shape[1] // 2, 8, 8).amax(1), c=conv(4, 5)),
        {"a": 4, "c": 5}),
    Toy("pieces by width", lambda: chain(
        5, a=conv(3, 8), m=lambda x: x.view(len(x), -1, 2, 8, 8).amax(2), c=conv(4, 5)),
        {"a": 4, "c": 5}),
    Toy("three pieces", lambda: chain(
        5, a=conv(3, 8), m=lambda x: x.view(len(x), 2, 2, 2, 8, 8).sum((2, 3)), c=conv(2, 5)),
        {"c": 5}, ("sum over channels",)),
    Toy("unflatten and unbind", lambda: Net(
        pieces, 5, a=conv(3, 6), b=conv(3, 5)), {"a": 3, "b": 5}),
    Toy("unbind", lambda: chain(
        5, a=conv(3, 2), m=lambda x: sum(x.unbind(1))[:, None], b=conv(1, 5)),
        {"b": 5}, ("unbind",)),
    Toy(  # the second transposed layer ties its halves, on both sides
        "transposed",
        lambda: chain(
            5, a=cbr(3, 4), t=nn.ConvTranspose2d(4, 6, 2, stride=2), r=R(),
            u=nn.ConvTranspose2d(6, 4, 3, groups=2), q=R(), c=conv(4, 5),
        ),
        {"a.0": 4, "t": 3, "u": 2, "c": 5},
    ),
    Toy("transposed depthwise", lambda: chain(
        5, a=conv(3, 8), t=nn.ConvTranspose2d(8, 16, 2, 2, groups=8), c=conv(16, 5)),
        {"a": 8, "c": 5}),
    Toy(
        "layer norm",
        lambda: Net(transformer, 6, **patches(
            norm=nn.LayerNorm(6), norm2=nn.LayerNorm(6), fc1=nn.Linear(6, 9), fc2=nn.Linear(9, 6))),
        {"fc1": 9},
        ("LayerNorm over channels",),
    ),
    Toy(
        "attention",
        lambda: Net(attention, 6, **patches(
            mha=nn.MultiheadAttention(6, 2, batch_first=True),
            fc1=nn.Linear(6, 9), fc2=nn.Linear(9, 6))),
        {"patch": 6, "mha": 2, "fc1": 9},
    ),
    Toy("class token", lambda: Net(
        tokens, 7, token=torch.randn(1, 1, 6), place=torch.randn(1, 5, 6),
        **patches(fc=nn.Linear(6, 7))), {"patch": 6, "fc": 7}),
    Toy("layer scale", lambda: Net(
        lambda n, x: scaled(n, n.a(x)), 6, a=conv(3, 6), b=conv(6, 6), scale=torch.randn(6, 1, 1)),
        {"a": 6}),
    Toy("a scale of one axis", lambda: Net(
        lambda n, x: n.scale[None, :, None, None] * n.a(x), 6, a=conv(3, 6), scale=torch.randn(6)),
        {"a": 6}),
    Toy("scalar scale", lambda: Net(
        lambda n, x: scaled(n, n.a(x)), 6, a=conv(3, 6), b=conv(6, 6), scale=torch.randn(1)),
        {"a": 6}),
    Toy("spatial gate", lambda: Net(
        lambda n, x: n.a(x) * n.g(n.a(x)).sigmoid(), 6, a=conv(3, 6), g=conv(6, 1)), {"a": 6},
        ("broadcast over channels",)),
    Toy("prelu", lambda: chain(
        5, a=conv(3, 6), r=nn.PReLU(6, 0.3), b=conv(6, 5), q=nn.PReLU()), {"a": 6, "b": 5}),
    Toy("tied in time", lambda: Net(
        lambda n, x: n.t(n.t(n.a(x)).relu()), 6, a=cbr(3, 6), t=conv(6, 6)), A),
    Toy("tied modules", tied_modules, {"a.0": 6, "d": 6}),
    Toy("computed weight", lambda: Net(  # normalised over what it reads
        lambda n, x: n.c(F.conv2d(n.a(x).relu(), n.w.softmax(1)).relu()), 5,
        a=conv(3, 6), w=torch.randn(4, 6, 1, 1), c=conv(4, 5)),
        {"w": 4, "c": 5}, ("trial cut: the cut network computes something else",)),
    Toy("weight used twice", lambda: Net(
        used_twice, 5, a=conv(3, 6), fc=nn.Linear(6, 4), c=nn.Linear(6, 5)), {"c": 5},
        ("fc.weight is used in two ways",)),
    Toy("mean over channels", lambda: chain(
        5, a=conv(3, 6), m=lambda x: x * x.mean(1, keepdim=True), b=conv(6, 5)), {"b": 5},
        ("mean over channels",)),
    Toy("group norm", lambda: chain(
        5, a=conv(3, 6), n=nn.GroupNorm(3, 6), b=conv(6, 5)), {"a": 3, "b": 5}),
    Toy("unknown op", lambda: chain(5, a=conv(3, 6), u=lambda x: x.renorm(2, 1, 1.0),
        b=conv(6, 5)), {"b": 5}, ("unknown op aten.renorm",)),
    Toy("unused module", lambda: Net(
        lambda n, x: n.a(x).relu(), 6, a=conv(3, 6), spare=conv(3, 4)), {"a": 6}),
    Toy("flip", lambda: chain(
        5, a=conv(3, 6), f=lambda x: torch.cat([x, x.flip(1)], 1), b=conv(12, 5)),
        {"a": 6, "b": 5}),
    Toy("roll", lambda: chain(
        5, a=conv(3, 6), s=lambda x: x.roll(3, 2), b=conv(6, 4), f=lambda x: x.roll(1, 1),
        c=conv(4, 5)), {"a": 6, "c": 5}, ("roll by a fixed number",)),
    Toy("sliding windows", lambda: chain(
        5, a=conv(3, 6), s=lambda x: x.unfold(-1, 3, 2).amax(-1), b=conv(6, 4),
        f=lambda x: x.unfold(1, 3, 1).amax(-1), c=conv(2, 5)),
        {"a": 6, "c": 5}, ("unfold of the channels",)),
    Toy("ordered over space", lambda: chain(
        5, a=conv(3, 6), s=lambda x: x.logcumsumexp(2) - x.median(3, True)[0], b=conv(6, 4),
        t=lambda x: x.kthvalue(2, 3, True)[0] - torch.aminmax(x, dim=-1, keepdim=True).min,
        c=conv(4, 5)), {"a": 6, "b": 4, "c": 5}),
    Toy("stack and sum", lambda: Net(
        lambda n, x: n.c(torch.stack([n.a(x), n.b(x)]).sum(0).relu()).relu(), 5,
        a=conv(3, 4), b=conv(3, 4), c=conv(4, 5)), {"a": 4, "c": 5}),
    Toy("side by side", lambda: Net(
        lambda n, x: n.c(torch.cat([n.a(x), n.b(x)], 2).relu()).relu(), 5,
        a=conv(3, 4), b=conv(3, 4), c=conv(4, 5)), {"a": 4, "c": 5}),
    Toy("two groups of one layer", lambda: Net(
        two_parts, 5, d=conv(3, 8), a=conv(3, 4), b=conv(3, 4), c=conv(8, 5)),
        {"d": 4, "d#2": 4, "c": 5}),
    Toy("constant", lambda: chain(
        5, a=conv(3, 6), m=lambda x: x * torch.arange(1, 7)[:, None, None], b=conv(6, 5)),
        {"b": 5}, ("trial cut",)),
    Toy("zeros of the same shape", lambda: chain(
        5, a=conv(3, 6), z=lambda x: torch.cat([x, torch.zeros_like(x)], 1), b=conv(12, 5)),
        {"a": 6, "b": 5}),
    Toy("zeros of fixed shape", lambda: Net(
        fixed_zeros, 5, a=conv(3, 4), d=conv(4, 6), b=conv(6, 5)), {"a": 4, "b": 5},
        ("trial cut",)),
    Toy("written in place", lambda: Net(in_place, 5, a=conv(3, 6), c=conv(6, 5)), {"c": 5},
        ("in-place copy",)),
    Toy("crop of channels", lambda: chain(
        5, a=conv(3, 6), s=lambda x: F.pad(x, (0, 0, 0, 0, -1, -1)), b=conv(4, 5)), {"b": 5},
        ("pad that cuts",)),
    Toy("slice of channels", lambda: chain(
        5, a=conv(3, 6), s=lambda x: x[:, 1:-1].narrow(2, 1, 4), b=conv(4, 5)), {"b": 5},
        ("cut at fixed bounds [6, 1, 5]",)),
    Toy("repeat", lambda: chain(
        5, a=conv(3, 6), s=lambda x: x.repeat(1, 2, 1, 1).tile(1, 1, 2, 1), b=conv(12, 5)),
        {"a": 6, "b": 5}),
    Toy("product of activations", lambda: Net(
        matrix, 5, a=conv(3, 6), fc=nn.Linear(6, 4), fc2=nn.Linear(4, 5)), {"fc": 4, "fc2": 5},
        ("matmul",)),
    Toy("norms without scale", lambda: chain(
        5, a=conv(3, 6), n=nn.BatchNorm2d(6, affine=False), p=nn.ReflectionPad2d(1), b=conv(6, 5),
        i=nn.InstanceNorm2d(5, affine=True)), {"a": 6, "b": 5}),
    Toy("one dimension", lambda: nn.Sequential(
        nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6), R(), nn.MaxPool1d(2), nn.Conv1d(6, 5, 3),
        nn.Flatten(), nn.Linear(15, 3)), {"0": 6, "4": 5}, (), (2, 12)),
    Toy("three dimensions", lambda: nn.Sequential(
        nn.Conv3d(2, 6, 3), nn.BatchNorm3d(6), R(), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
        nn.Linear(6, 3)), {"0": 6}, (), (2, 4, 4, 4)),
    Toy("rows of features", lambda: nn.Sequential(
        nn.Linear(7, 6), R(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), {"0": 6, "2": 5}, (),
        (7,)),
    Toy("tokens in", lambda: nn.Sequential(nn.Linear(4, 6), R(), nn.Linear(6, 3)), {"0": 6}, (),
        (5, 4)),
]  # fmt: skip
