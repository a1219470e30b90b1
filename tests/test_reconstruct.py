"""Refitting a cut network by least squares: against a naive twin, and where the answer is known."""

import copy

import pytest
import torch
import torch.nn.functional as F
from problems_runs import same
from torch import Tensor, nn
from torch.testing import assert_close

import dsa_core as dsa
from dsa_core.errors import SurgeryError
from dsa_core.lab.models.resnet import resnet
from dsa_core.surgery.linear_form import matrix_of, put_matrix, rows_of, targets_of
from dsa_core.surgery.reconstruct import Equations, at_layer, called, norms_behind, reconstruct
from dsa_core.surgery.verify import randomise


def seeded(*layers: nn.Module) -> nn.Sequential:
    """Random weights and statistics, float64."""
    torch.manual_seed(0)
    model = nn.Sequential(*layers).double().eval()
    randomise(model)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def images(n: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 2, 7, 7, generator=generator, dtype=torch.float64) for _ in range(n)]


def cut(model: nn.Module, x: Tensor, kept: int) -> tuple[nn.Module, dsa.ChannelGraph, Tensor]:
    """The first `kept` channels of every group stay."""
    graph = dsa.trace(model, x[:1])
    keep = torch.cat([torch.arange(group.size) < kept for group in graph.prunable])
    return dsa.prune(model, graph, keep).eval(), graph, keep


CONSUMERS = {
    "convolution": lambda: [nn.Conv2d(6, 5, 3, padding=1, stride=2)],
    "dilated, no bias, norm behind": lambda: [
        nn.Conv2d(6, 5, 3, dilation=2, bias=False),
        nn.BatchNorm2d(5),
    ],
    "transposed": lambda: [nn.ConvTranspose2d(6, 5, 3, stride=2)],
    "linear": lambda: [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)],
}


@pytest.mark.parametrize("kind", CONSUMERS)
def test_what_the_kept_channels_can_say_is_removed_without_loss(kind):
    first = nn.Conv2d(2, 6, 3)
    model = seeded(first, *CONSUMERS[kind]())
    with torch.no_grad():  # two channels are linear combinations of the four that stay
        mix = torch.tensor([[0.5, -1.0, 2.0, 0.3], [1.0, 1.0, 0.0, -0.7]], dtype=torch.float64)
        first.weight[4:] = torch.einsum("ij,jchw->ichw", mix, first.weight[:4])
        first.bias[4:] = mix @ first.bias[:4] + 0.25  # and a constant
    xs = images(8)
    pruned, graph, keep = cut(model, xs[0], 4)
    with torch.no_grad():
        wanted = model(xs[0])
        assert float((pruned(xs[0]) - wanted).abs().max()) > 0.1
        if kind in ("convolution", "transposed"):  # zeros around an image: no constant there
            first.bias[4:] = mix @ first.bias[:4]
            first.bias.zero_()
            pruned, graph, keep = cut(model, xs[0], 4)
            wanted = model(xs[0])
    fits = dsa.reconstruct(pruned, model, graph, keep, xs, ridge=1e-14, progress=False)
    assert [fit.after < 1e-12 < fit.before for fit in fits] == [True]
    with torch.no_grad():
        assert_close(pruned(xs[0]), wanted, rtol=1e-6, atol=1e-6)


def test_the_normal_equations_are_least_squares():
    generator = torch.Generator().manual_seed(2)
    x, y = (torch.randn(2, 50, n, generator=generator, dtype=torch.float64) for n in (3, 4))
    halves = Equations.of(x[:, :20], y[:, :20]).plus(Equations.of(x[:, 20:], y[:, 20:]))
    ones = torch.cat([x, torch.ones_like(x[..., :1])], 2)
    for rows in (ones, x):
        found = halves.solve(ridge=0.0, constant=rows is ones)
        naive = torch.linalg.lstsq(rows, y).solution
        assert_close(found[:, : rows.shape[2]], naive, rtol=1e-9, atol=1e-10)
    assert bool((found[:, 3] == 0).all())
    w = halves.solve(ridge=0.1, constant=True)
    by_hand = (ones @ w - y).square().sum() / (y - y.mean(1, keepdim=True)).square().sum()
    assert halves.error(w) == pytest.approx(float(by_hand), rel=1e-9)


LAYERS = {
    "1d": (nn.Conv1d(6, 8, 3, stride=2, padding=2, padding_mode="replicate"), (9,)),
    "2d": (nn.Conv2d(6, 6, 3, padding=1, stride=2, groups=2), (8, 8)),
    "2d, depthwise, same": (nn.Conv2d(6, 12, (3, 5), padding="same", groups=6), (5, 7)),
    "2d, wrapped": (nn.Conv2d(6, 4, 3, padding=(2, 1), padding_mode="circular"), (6, 5)),
    "3d": (nn.Conv3d(6, 4, (1, 2, 3), dilation=(1, 2, 1), bias=False), (3, 5, 4)),
    "transposed": (nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1), (4, 5)),
    "transposed, groups": (nn.ConvTranspose2d(6, 4, (3, 2), 3, dilation=2, groups=2), (4, 3)),
    "transposed, cropped": (nn.ConvTranspose1d(6, 4, 2, padding=3), (9,)),
    "linear": (nn.Linear(6, 4), None),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_rows_times_the_matrix_are_the_outputs(kind):
    layer, size = copy.deepcopy(LAYERS[kind][0]).double(), LAYERS[kind][1]
    x = torch.randn((2, 5, 6) if size is None else (2, 6, *size), dtype=torch.float64)
    with torch.no_grad():
        inputs, outputs = at_layer(layer, layer, x)
        rows = rows_of(layer, inputs, outputs)
        rows = torch.cat([rows, torch.ones(*rows.shape[:2], 1)], 2)
        everything = torch.ones(outputs.shape[-1 if size is None else 1], dtype=torch.bool)
        wanted = targets_of(layer, outputs, everything)
        assert_close(rows @ matrix_of(layer), wanted)
        other = torch.randn_like(matrix_of(layer))
        if layer.bias is None:
            other[:, -1] = 0
        put_matrix(layer, other, None)
        assert_close(matrix_of(layer), other)


def test_a_residual_network_comes_nearer_and_the_dense_one_stays():
    dense, xs = resnet((1, 1), (8, 16), in_channels=2), [x.float() for x in images(4)]
    pruned, graph, keep = cut(dense.eval(), xs[0], 5)
    with torch.no_grad():
        wanted = dense(xs[0])
        raw = float((pruned(xs[0]) - wanted).square().mean())
    before = copy.deepcopy(dense.train())
    fits = dsa.reconstruct(pruned, dense, graph, keep, xs, progress=False)
    assert len(fits) >= 4
    assert all(fit.after <= fit.before for fit in fits)
    assert dense.training
    assert not pruned.training
    same(dense, before)
    with torch.no_grad():
        assert float((pruned(xs[0]) - wanted).square().mean()) < raw / 2


def test_what_torch_runs_by_a_kernel_of_its_own_is_refitted_too():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0)
    dense = nn.TransformerEncoder(layer, 2).eval()
    xs = [torch.randn(4, 6, 16) for _ in range(8)]
    pruned, graph, keep = cut(dense, xs[0], 3)
    assert bool(keep.logical_not().any())
    fits = dsa.reconstruct(pruned, dense, graph, keep, xs, progress=False)
    assert {"layers.0.self_attn.out_proj", "layers.1.linear2"} <= {fit.name for fit in fits}
    assert type(dense.layers[0].self_attn) is nn.MultiheadAttention
    with torch.no_grad():  # by the means of 192 tokens
        again = dsa.prune(dense, graph, keep)(xs[0])
        wanted = dense(xs[0])
        assert (pruned(xs[0]) - wanted).square().mean() < (again - wanted).square().mean()


def test_no_batches_are_refused():
    model = seeded(nn.Conv2d(2, 6, 3), nn.Conv2d(6, 2, 3))
    pruned, graph, keep = cut(model, images()[0], 3)
    with pytest.raises(SurgeryError, match="some batches"):
        dsa.reconstruct(pruned, model, graph, keep, [], progress=False)


class Wired(nn.Module):
    """Layers a to d, and norms, put together by a function of (self, x)."""

    def __init__(self, forward) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1, bias=False)
        self.c, self.d = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 4, 1, bias=False)
        self.norm, self.wired = nn.BatchNorm2d(4), forward

    def forward(self, x: Tensor) -> Tensor:
        return self.wired(self, x)


NORMS = {  # of b: which of the two may take a constant
    "alone": (lambda m, x: m.norm(m.b(m.a(x))), True),
    "by its keyword": (lambda m, x: m.norm(input=m.b(input=m.a(x))), True),
    "and another reader": (lambda m, x: m.norm(y := m.b(m.a(x))) + y, False),
    "after a change in place": (lambda m, x: m.norm(m.b(m.a(x)).add_(x.sum())), False),
    "of two layers": (lambda m, x: m.norm(m.b(m.a(x))) + m.norm(m.d(m.c(x))), False),
}


@pytest.mark.parametrize("kind", NORMS)
def test_a_norm_takes_the_constant_of_the_one_layer_that_it_alone_reads(kind):
    forward, takes = NORMS[kind]
    model, xs = Wired(forward).eval(), [x.float() + 1 for x in images()]
    found = norms_behind(model, xs[0], called)
    assert found[model.b] is (model.norm if takes else None)
    assert not model.norm._forward_hooks
    pruned, graph, keep = cut(model, xs[0], 4)
    with torch.no_grad():
        before = float((pruned(xs[0]) - model(xs[0])).square().mean())
        dsa.reconstruct(pruned, model, graph, keep, xs, progress=False)
        assert float((pruned(xs[0]) - model(xs[0])).square().mean()) < before


@pytest.mark.parametrize("kind", ["shared", "bias", "called", "weight_norm", "parametrized"])
def test_weights_that_are_not_a_layers_own_stay(kind):
    model = Wired(lambda m, x: m.b(m.a(x).relu()) + m.d(m.c(x).relu())).double().eval()
    if kind == "shared":
        model.d = nn.Conv2d(8, 4, 3, padding=1, bias=False).double()
        model.d.weight = model.b.weight
    elif kind == "bias":
        model.b.bias = model.d.bias = nn.Parameter(torch.ones(4).double())
    elif kind == "called":
        model.wired = lambda m, x: (
            m.b(m.a(x).relu()) + F.conv2d(m.c(x).relu(), m.b.weight, padding=1)
        )
    elif kind == "weight_norm":
        nn.utils.weight_norm(model.b)
    else:
        nn.utils.parametrizations.weight_norm(model.b)
    pruned, graph, keep = cut(model, images()[0], 4)
    before = pruned.b.weight.detach().clone()
    fits = dsa.reconstruct(pruned, model, graph, keep, images(), progress=False)
    assert [fit.name for fit in fits] == (["d"] if "param" in kind or "norm" in kind else [])
    pruned(images()[0])  # a hook computes the weight again
    assert torch.equal(pruned.b.weight, before)


def test_half_precision_is_summed_in_float32():
    x = torch.full((1, 300, 1), 100.0, dtype=torch.float16)  # the sum of squares is beyond 65504
    found = Equations.of(x, x)
    assert found.xx[0, 0, 0] == found.yy[0, 0] == 3e6


class InPlace(nn.Sequential):
    """A network that normalises its input in place."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sub_(0.5).mul_(2.0))


def test_inputs_that_the_network_changes_are_read_again():
    model = InPlace(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3)).double().eval()
    xs = images()
    pruned, graph, keep = cut(model, xs[0], 4)
    before = [x.clone() for x in xs]
    (fit,) = reconstruct(pruned, model, graph, keep, xs, progress=False)
    assert fit.after < fit.before
    for x, same_as in zip(xs, before, strict=True):
        assert torch.equal(x, same_as)


class Scaled(nn.Conv2d):
    """Its output is no function of its weight alone."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 0.1


def test_a_layer_with_a_forward_of_its_own_stays():
    model = seeded(nn.Conv2d(2, 6, 3), nn.ReLU(), Scaled(6, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 1))
    pruned, graph, keep = cut(model, images()[0], 4)
    fits = reconstruct(pruned, model, graph, keep, images(), progress=False)
    assert [fit.name for fit in fits] == ["4"]


def test_a_run_that_draws_gives_both_networks_the_same_draws():
    model = seeded(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 1))
    pruned, graph, keep = cut(model, images()[0], 4)

    def noisy(network: nn.Module, x: Tensor) -> Tensor:
        return network(x + 10 * torch.randn_like(x))

    fits = reconstruct(pruned, model, graph, keep, images(), run=noisy, progress=False)
    assert [fit.name for fit in fits] == ["2", "4"]  # nothing was cut before "0"
    assert all(fit.after < 0.9 for fit in fits)  # 1 is a constant
