"""Verified tracing: what a trial cut shows to be wrong is put right, or stays with the reason."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems_networks import Net, Part, agrees, conv
from torch import Tensor, nn

from dsa_core.budget import Cost
from dsa_core.errors import SurgeryError, TraceError
from dsa_core.masks import masked
from dsa_core.surgery import load, prune, save, try_forward
from dsa_core.surgery.verify import count_macs, random_channels
from dsa_core.tracing import trace

X = torch.zeros(2, 3, 8, 8)
CHANGED = "computes something else"
BROKEN = "cannot run: the network (Net, test_tracing.py:"
Between = Callable[[nn.Module, Tensor], Tensor]


def between(function: Between, **parts: nn.Module | Tensor) -> nn.Module:
    """A convolution to 8 channels, something, a convolution to 5, a head."""
    return Net(lambda n, x: n.b(function(n, n.a(x).relu())).relu(), 5, a=conv(3, 8), b=conv(8, 5),
               **parts)  # fmt: skip


def owned(function: Between, **numbers: Any) -> nn.Module:
    """The same, and what lies between is a module that holds numbers, or tensors."""
    return between(lambda n, x: n.m(x), m=Part(function, **numbers))


def shuffled(y: Tensor, pieces: int) -> Tensor:
    b, c, h, w = y.shape
    return y.view(b, pieces, c // pieces, h, w).transpose(1, 2).reshape(b, c, h, w)


def restormer(n: nn.Module, y: Tensor) -> Tensor:
    """A view of one tensor with another's width."""
    gate = n.g(y.mean((2, 3), keepdim=True))
    return y * gate.view(y.shape[0], y.shape[1], 1, 1).sigmoid()


# network, what group `a` becomes (None: it stays), words of the reason or names of attributes set
CASES: dict[str, tuple[Callable[[], nn.Module], int | None, str]] = {
    "pairs shuffled": (lambda: between(lambda n, y: shuffled(y, y.shape[1] // 2)), 4, ""),
    "fours unflattened": (
        lambda: between(
            lambda n, y: y.unflatten(1, (y.shape[1] // 4, 4)).transpose(1, 2).flatten(1, 2)
        ), 2, ""),
    "unflattened by numbers": (
        lambda: between(lambda n, y: y.unflatten(1, [8, -1]).flatten(1, 2)), None, BROKEN),
    "root of the width": (lambda: between(lambda n, y: y / y.shape[1] ** 0.5), None, CHANGED),
    "blur": (
        lambda: owned(lambda m, y: F.conv2d(y, m.f, padding=1, groups=m.c), c=8,
                      f=torch.rand(8, 1, 3, 3)), 8, "m.c"),
    "unpooled": (
        lambda: between(lambda n, y: F.max_unpool2d(*F.max_pool2d(y, 2, return_indices=True), 2)),
        8, ""),
    "rows of written width": (
        lambda: between(lambda n, y: y * y.mean((2, 3)).view(-1, 8).sigmoid()[:, :, None, None]),
        None, BROKEN),
    "width held by a module": (
        lambda: owned(lambda m, y: y * y.mean((2, 3)).view(-1, m.c)[:, :, None, None], c=8),
        8, "m.c"),
    "fours of the channels": (
        lambda: between(lambda n, y: torch.cat(y.chunk(y.shape[1] // 4, 1)[::-1], 1)), None, ""),
    "another's width": (lambda: between(restormer, g=conv(8, 8, 1)), 8, ""),
    "split by a number": (
        lambda: between(lambda n, y: torch.cat(y.split(4, 1)[::-1], 1)), None, CHANGED),
    "split by an attribute": (
        lambda: owned(lambda m, y: torch.cat(y.split(m.half, 1)[::-1], 1), half=4), 4, "m.half"),
    "split by a list": (
        lambda: owned(lambda m, y: torch.cat(y.split(m.sizes, 1)[::-1], 1), sizes=[2, 6]),
        8, "m.sizes"),
    "slices by half the width": (
        lambda: between(
            lambda n, y: torch.cat([y[:, y.shape[1] // 2 :], y[:, : y.shape[1] // 2]], 1)), 4, ""),
    "norm groups by an attribute": (
        lambda: owned(lambda m, y: F.group_norm(y, m.groups), groups=4), 4, "m.groups"),
    "norm groups by a number": (lambda: between(lambda n, y: F.group_norm(y, 4)), None, ""),
    "state of an attribute's shape": (
        lambda: owned(lambda m, y: y + torch.zeros(len(y), m.c, 8, 8), c=8), 8, "m.c"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_small_networks_are_cut_rightly_or_stay_with_a_reason(name: str) -> None:
    build, size, words = CASES[name]
    torch.manual_seed(0)
    model = build()
    graph = trace(model, X)
    sizes = {g.name: g.size for g in graph.prunable}
    assert sizes.get("a") == size
    assert sizes["b"] == 5
    assert ("trial cut" in graph.report()) == (size is None)
    assert words in (graph.report() if size is None else str(graph.remedies.attributes))
    agrees(model, graph, X)


def test_remedies_hold_for_networks_that_are_saved_and_cut_again(tmp_path: Path) -> None:
    for name in ("blur", "pairs shuffled", "split by a list", "root of the width"):
        torch.manual_seed(0)
        dense = CASES[name][0]()
        once = prune(dense, graph := trace(dense, X), random_channels(graph, 0.6, 1))
        twice = prune(once, graph := trace(once, X), keep := random_channels(graph, 0.6, 1))
        again = load(save(tmp_path / name, twice, graph, keep, name="it"), dense)
        assert torch.equal(try_forward(again, X), try_forward(twice, X))


def test_an_attribute_that_does_not_fit_is_refused() -> None:
    model = CASES["blur"][0]()
    graph = trace(model, X)
    for value in (9, 8.0, True, None):
        model.m.c = value
        with pytest.raises(SurgeryError, match=r"m\.c must be 8, a number of channels; it is"):
            prune(model, graph, random_channels(graph, 0.5, 0))


def test_the_network_and_the_generator_are_left_as_they_were() -> None:
    model = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.Dropout(), conv(8, 5)).train()
    model(torch.rand(2, 3, 8, 8)).sum().backward()
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    gradients = [p.grad.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    trace(model, X)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert [m.training for m in model] == [True, False, True, True]
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"])
def test_macs_of_recurrent_layers_are_those_that_torch_counts(kind: str) -> None:
    cell = kind.endswith("Cell")
    settings = {} if cell else {"num_layers": 2, "batch_first": True}

    def steps(n: nn.Module, x: Tensor) -> Tensor:
        y = n.c(n.a(x).relu())
        state = n.r(y[:, 0] if cell else y)
        return state[0] if isinstance(state, tuple) else state

    layers = {"a": nn.Linear(6, 8), "c": nn.Linear(8, 8), "r": getattr(nn, kind)(8, 7, **settings)}
    model, x = Net(steps, 7, **layers), torch.zeros(2, 5, 6)
    graph = trace(model, x)
    assert [g.name for g in graph.prunable] == ["a"]
    assert Cost.of(graph, "macs").dense == count_macs(model.double(), x.double())
    agrees(model, graph, x)


def test_a_linear_layer_may_read_a_vector_of_one_example_alone() -> None:
    model = between(lambda n, y: y * n.g(y.mean((0, 2, 3))).sum(), g=nn.Linear(8, 3)).double()
    one = X[:1].double()
    with pytest.raises(TraceError, match=r"^g: linear runs once for the whole batch of 2"):
        trace(model, X.double())
    agrees(model, trace(model, one), one)
    assert len(trace(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)), torch.ones(6)).prunable) == 1


def test_macs_that_cannot_be_counted_are_refused() -> None:
    def chained(n: nn.Module, y: Tensor) -> Tensor:
        u = n.c(y).mean((2, 3))
        return y * torch.linalg.multi_dot([u, u.T, u]).sum()

    with pytest.raises(TraceError, match=r"torch counts \d+, our rules \d+.*linalg_multi_dot"):
        trace(between(chained, c=conv(8, 4)), X)


VECTORS: dict[str, Between] = {  # y: (N, L, C)
    "y @ q": lambda n, y: y @ n.q,
    "y.T @ q": lambda n, y: y.mT.contiguous().mT @ n.q,
    "q @ y": lambda n, y: n.q @ y.mT,
    "q @ matrix": lambda n, y: (n.q @ y[0].T)[None],
    "vector @ q": lambda n, y: (y[0, 0] @ n.q)[None, None],
}


@pytest.mark.parametrize("name", VECTORS)
def test_macs_of_products_with_a_vector_are_those_that_torch_counts(name: str) -> None:
    def pooled(n: nn.Module, x: Tensor) -> Tensor:
        y = n.b(n.a(x).relu()).flatten(2).mT
        return (y * VECTORS[name](n, y).softmax(-1)[..., None]).sum(1)

    model = Net(pooled, 5, a=conv(3, 8), b=conv(8, 5), q=torch.rand(5))
    graph = trace(model, X)
    assert [g.name for g in graph.prunable] == ["a"]
    agrees(model, graph, X)


# Conv1D of GPT-2, and its siblings: (forward, weight of the layer)
MATRICES: dict[str, tuple[Between, tuple[int, int]]] = {
    "x @ W": (lambda n, x: x @ n.w, (6, 8)),
    "x @ W.t()": (lambda n, x: x @ n.w.t(), (8, 6)),
    "addmm": (lambda n, x: torch.addmm(n.bias, x.flatten(0, 1), n.w).view(2, 5, -1), (6, 8)),
    "one bias": (lambda n, x: F.linear(x, n.w, n.one), (8, 6)),
    "einsum": (lambda n, x: torch.einsum("bnd,df->bnf", x, n.w), (6, 8)),
    "einsum, turned": (lambda n, x: torch.einsum("bnd,fd->bnf", x, n.w), (8, 6)),
    "linear(x, W.T)": (lambda n, x: F.linear(x, n.w.T), (6, 8)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_a_product_with_a_matrix_is_a_layer(name: str) -> None:
    product, shape = MATRICES[name]
    model = Net(
        lambda n, x: n.c(product(n, n.a(x).tanh()).tanh()).tanh().mean(1), 5, a=nn.Linear(4, 6),
        w=torch.rand(shape), bias=torch.rand(8), one=torch.rand(1), c=nn.Linear(8, 5),
    )  # fmt: skip
    x = torch.zeros(2, 5, 4)
    graph = trace(model, x)
    assert {g.name: g.size for g in graph.prunable} == {"a": 6, "w": 8, "c": 5}
    agrees(model, graph, x)


SPECIAL = "digamma erf erfc erfinv exp2 expit expm1 gammaln i0 log1p logit ndtr psi round sinc"
PER_CHANNEL: dict[str, Between] = {
    "pointwise": lambda n, y: y.asinh() + y.tan() - y.trunc() * y.clip(0.1, 0.9).fmod(0.3),
    "special": lambda n, y: sum(  # all of them are finite between 0 and 1
        getattr(torch.special, name)((y - 0.5).sigmoid()) for name in SPECIAL.split()),
    "adaptive_max_pool": lambda n, y: F.adaptive_max_pool1d(y.flatten(2), 16).unflatten(2, (4, 4)),
    "adaptive_max_pool3d": lambda n, y: F.adaptive_max_pool3d(y[:, :, None], (1, 4, 4))[:, :, 0],
    "sort": lambda n, y: y.flatten(2).sort(2)[0].unflatten(2, (8, 8)),
    "topk": lambda n, y: y.flatten(2).topk(16)[0].unflatten(2, (4, 4)),
    "repeat_interleave": lambda n, y: y.repeat_interleave(2, 2),
    "computed slopes": lambda n, y: F.prelu(y - 0.5, n.w.exp()),
    "fractional_max_pool": lambda n, y: F.fractional_max_pool2d(
        y, 2, 4, _random_samples=y.new_full((len(y), y.shape[1], 2), 0.3)),
    "rot90": lambda n, y: y.rot90(1, (2, 3)),
    "fliplr": lambda n, y: y.fliplr(),
    "diff": lambda n, y: y.diff(dim=2, prepend=y[:, :, :1]),
    "unfold": lambda n, y: F.fold(F.unfold(y, 2, stride=2), 8, 2, stride=2),
    "grid_sample": lambda n, y: F.grid_sample(
        y, torch.linspace(-1, 1, 128, dtype=y.dtype).view(1, 8, 8, 2).expand(2, -1, -1, -1),
        align_corners=False),
}  # fmt: skip


@pytest.mark.parametrize("name", PER_CHANNEL)
def test_operators_that_act_on_each_channel_by_itself(name: str) -> None:
    model = between(PER_CHANNEL[name], w=torch.rand(8))
    graph = trace(model, X)
    assert {g.name: g.size for g in graph.prunable} == {"a": 8, "b": 5}
    agrees(model, graph, X)


# an operator along an axis of positions (2) and along that of the channels (1)
ALONG: dict[str, Callable[[Tensor, int], Tensor]] = {
    "nanmean": lambda y, d: y * y.nanmean(d, keepdim=True),
    "mode": lambda y, d: y - y.mode(d, keepdim=True)[0],
    "quantile": lambda y, d: y - y.quantile(0.3, d, keepdim=True),
    "argsort": lambda y, d: y * y.argsort(d),
    "cosine_similarity": lambda y, d: y * F.cosine_similarity(y, y.cos(), d).unsqueeze(d),
    "diff": lambda y, d: torch.cat([y.diff(dim=d), y.narrow(d, 0, 1)], d),
    "tril": lambda y, d: y.transpose(d, 3).tril().transpose(d, 3),
    "triu": lambda y, d: y.transpose(d, 3).triu(1).transpose(d, 3),
    "diagonal": lambda y, d: y * y.diagonal(0, d, 3).mean(-1)[..., None, None],
    "fft_fft": lambda y, d: torch.fft.fft(y, dim=d).real,
    "fft_rfft2": lambda y, d: torch.fft.irfft2(torch.fft.rfft2(y, dim=(d, 3)) * 0.5, dim=(d, 3)),
    "fft_fftshift": lambda y, d: torch.fft.fftshift(y, dim=d),
}


@pytest.mark.parametrize("name", ALONG)
def test_operators_along_positions_and_along_channels(name: str) -> None:
    torch.manual_seed(0)
    for axis, sizes in ((2, {"a": 8, "b": 5}), (1, {"b": 5})):
        model = between(lambda n, y, axis=axis: ALONG[name](y, axis))
        graph = trace(model, X)
        assert {g.name: g.size for g in graph.prunable} == sizes
        assert (f"{name} over channels" in graph.report()) == (axis == 1)
        agrees(model, graph, X)


class Blind(nn.Module):
    """The width of b is in the code, and what follows hides it from a careless trial.

    Args:
        hide: of the network, its input to b and what comes of b; returns the output.
    """

    def __init__(self, hide: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 8), conv(8, 6), conv(6, 8), nn.Linear(8, 4)
        self.gate, self.hide = nn.Parameter(torch.zeros(1)), hide
        self.register_buffer("alpha", torch.tensor(0.0))
        for bias in (p for p in self.parameters() if p.ndim == 1):
            nn.init.zeros_(bias)  # an example of zeros is answered by zeros

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        y = self.b(x).relu()
        return self.hide(self, x, self.c(y / y.shape[1] ** 0.5))


def logits(n: Any, y: Tensor, filled: float) -> Tensor:
    """All but two of the outputs filled with a number."""
    return n.head(y.mean((2, 3))).masked_fill(torch.arange(4) > 1, filled)


HIDDEN = {
    "by a gate": lambda n, x, y: n.head((x + n.gate * y).mean((2, 3))),
    "by a buffer": lambda n, x, y: n.head((x + n.alpha * y).mean((2, 3))),
    "beside -inf": lambda n, x, y: logits(n, y, -torch.inf),
    "beside -1e9": lambda n, x, y: logits(n, y, -1e9),
    "beside the least number": lambda n, x, y: logits(n, y, torch.finfo(y.dtype).min),
}


@pytest.mark.parametrize("how", HIDDEN)
def test_a_trial_is_not_blind_to_a_width_that_is_hidden(how: str) -> None:
    graph = trace(Blind(HIDDEN[how]), X)
    assert "b" not in {group.name for group in graph.prunable}
    assert f"trial cut: the cut network {CHANGED}" in graph.report()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_example_that_was_never_filled_is_tried_with_numbers(value: float) -> None:
    x = torch.randn(1, 3, 8, 8)
    x[0, 0, 2:6, 2:6] = value
    graph = trace(Blind(lambda n, x, y: n.head((x + y).mean((2, 3)))), x)
    assert "b" not in {group.name for group in graph.prunable}


def fourier(m: Any, x: Tensor) -> Tensor:
    """Multiply low frequencies by complex matrices, as a Fourier neural operator does."""
    waves = torch.fft.rfft2(x)[:, :, :4, :3] * m.scale[:, None, None]
    return torch.fft.irfft2(torch.einsum("bihw,iohw->bohw", waves, m.weight), s=x.shape[2:])


@pytest.mark.filterwarnings("error:Casting complex values")
def test_complex_weights_keep_their_imaginary_part() -> None:
    weight = nn.Parameter(torch.randn(8, 6, 4, 3, dtype=torch.cfloat))
    scale = nn.Parameter(torch.ones(8, dtype=torch.cfloat))
    layer = Part(fourier, weight=weight, scale=scale)
    model = nn.Sequential(conv(3, 8), layer, conv(6, 5), nn.ReLU(), conv(5, 2))
    before = copy.deepcopy(model.state_dict())
    graph = trace(model, X)
    assert [g.name for g in graph.prunable] == ["2"]
    assert "8 channels stay: einsum of activations (1)" in graph.report()
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


class Tokens(nn.Module):
    """The mean of all tokens but padding, with a width in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.fc, self.head = nn.Embedding(20, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x, real = self.fc(self.table(ids)).relu(), (ids != 0)[..., None]
        x = x / x.shape[-1] ** 0.5 * real
        return self.head(x.sum(1) / real.sum(1).clamp(min=1))


def test_an_example_of_padding_alone_is_tried_with_tokens() -> None:
    graph = trace(Tokens(), torch.zeros(1, 6, dtype=torch.int64))
    assert "fc" not in {group.name for group in graph.prunable}


class Heads(nn.Module):
    """Attention with four heads; two more numbers are four by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.reach, self.longest = 4, 4, 4
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 3)
        self.bias = nn.Parameter(torch.randn(9))

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, -4 * self.longest :]
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        apart = torch.arange(n)[:, None] - torch.arange(n)
        near = self.bias[apart.clamp(-self.reach, self.reach) + 4]
        return self.out((((q @ k.mT) / 2 + near).softmax(-1) @ v).transpose(1, 2).flatten(2))


def test_numbers_that_are_as_large_as_a_width_by_chance_stay() -> None:
    model = Heads().eval()
    graph = trace(model, torch.randn(1, 3, 16))
    assert set(graph.remedies.attributes) == {"heads"}
    assert "numbers that a cut changes: heads" in graph.report()
    keep, x = random_channels(graph, 0.5, seed=0), torch.randn(2, 40, 16, dtype=torch.float64)
    with masked(model.double(), graph, keep.double()):
        wanted = model(x)
    torch.testing.assert_close(prune(model, graph, keep)(x), wanted)


@pytest.mark.parametrize("n", [4, 6, 8, 10])
def test_a_number_follows_the_one_of_two_equal_widths_that_it_is(n: int) -> None:
    def maps(m: Any, x: Tensor) -> Tensor:
        y = m.a(x).relu()
        y = y.view(len(y), m.width, -1).softmax(-1).view_as(y) * 100
        return m.b(y).relu() * 1.5

    model = nn.Sequential(Part(maps, a=conv(3, n), b=conv(n, n, 1), width=n), conv(n, 5))
    graph = trace(model, X)
    assert graph.remedies.attributes["0.width"].tensor == "0.a.weight"
    agrees(model, graph, X)


def checked(p: Any, x: Tensor) -> Tensor:
    assert x.shape[1] == p.one == p.two
    return x.clamp(max=p.most)


class Numbers(nn.Module):
    """Two numbers are the width of a, and one is as large by chance; that of b is in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(8, 6), conv(6, 3)
        self.part = Part(checked, one=8, two=8, most=8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.part(self.a(x).relu())).relu()
        return self.c(y / y.shape[1] ** 0.5)


def test_beside_a_group_that_stays_numbers_by_chance_stay_too() -> None:
    graph = trace(Numbers(), X)
    assert [group.name for group in graph.prunable] == ["a"]
    assert set(graph.remedies.attributes) == {"part.one", "part.two"}


class TwoNames(nn.Module):
    """Its first layer has a second name."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 8), nn.ReLU(), conv(8, 3))
        self.stem = self.body[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def test_a_module_under_two_names_is_cut_once() -> None:
    model = TwoNames()
    graph = trace(model, X)
    assert [group.size for group in graph.prunable] == [8, 8]
    agrees(model, graph, X)
    smaller = prune(model, graph, random_channels(graph, 0.5, seed=0))
    assert smaller.stem is smaller.body[0]
    assert smaller.stem.weight is smaller.body[0].weight


def test_parameters_in_the_same_memory_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    model[2].weight.data = model[0].weight.data.t()
    told = r"0\.weight and 2\.weight are two parameters in the same memory"
    with pytest.raises(TraceError, match=told):
        trace(model, torch.randn(2, 4))
    model[2].weight = nn.Parameter(model[0].weight.detach().t().clone())
    assert trace(model, torch.randn(2, 4)).prunable
