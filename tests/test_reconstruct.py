"""Refitting a cut network by least squares: against a naive twin, and where the answer is known."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import dsa_core as dsa
from dsa_core.errors import SurgeryError
from dsa_core.lab.models.resnet import resnet
from dsa_core.surgery.reconstruct import Equations, at_layer, rows_of


def seeded(*layers: nn.Module) -> nn.Sequential:
    """Random weights and statistics, float64."""
    model = nn.Sequential(*layers).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                drawn = torch.randn(value.shape, generator=generator, dtype=value.dtype)
                value.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else drawn)
    return model.eval()


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
        if kind == "convolution":  # its padding of zeros is no constant: take the constant away
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
    x = torch.randn(2, 50, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(2, 50, 4, generator=generator, dtype=torch.float64)
    halves = Equations.of(x[:, :20], y[:, :20]).plus(Equations.of(x[:, 20:], y[:, 20:]))
    for constant in (True, False):
        found = halves.solve(ridge=0.0, constant=constant)
        for g in range(2):
            rows = torch.cat([x[g], torch.ones(50, 1).double()], 1) if constant else x[g]
            naive = torch.linalg.lstsq(rows, y[g]).solution
            assert_close(found[g, : rows.shape[1]], naive, rtol=1e-9, atol=1e-10)
            ones = torch.cat([x[g], torch.ones(50, 1).double()], 1)
        assert constant or bool((found[:, 3] == 0).all())
    w = halves.solve(ridge=0.1, constant=True)
    ones = torch.cat([x, torch.ones(2, 50, 1).double()], 2)
    by_hand = (ones @ w - y).square().sum() / (y - y.mean(1, keepdim=True)).square().sum()
    assert halves.error(w) == pytest.approx(float(by_hand), rel=1e-9)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_rows_times_weights_are_the_outputs(groups):
    layer = nn.Conv2d(6, 6, 3, padding=1, stride=2, groups=groups).double()
    x = torch.randn(2, 6, 8, 8, dtype=torch.float64)
    inputs, wanted = at_layer(layer, layer, x)
    rows = rows_of(layer, inputs)
    weight = layer.weight.reshape(groups, -1, rows.shape[2]).mT
    found = rows @ weight + layer.bias.reshape(groups, 1, -1)
    assert_close(found.permute(1, 0, 2).reshape(2, 4, 4, 6).permute(0, 3, 1, 2), wanted)


def test_a_residual_network_comes_nearer_and_the_dense_one_stays():
    torch.manual_seed(0)
    dense = resnet((1, 1), (8, 16), in_channels=2).train()
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    xs = [x.float() for x in images(4)]
    pruned, graph, keep = cut(dense.eval(), xs[0], 5)
    dense.train()
    with torch.no_grad():
        wanted = dense.eval()(xs[0])
        raw = float((pruned(xs[0]) - wanted).square().mean())
        dense.train()
    fits = dsa.reconstruct(pruned, dense, graph, keep, xs, progress=False)
    assert len(fits) >= 4
    assert all(fit.after <= fit.before for fit in fits)
    assert dense.training
    assert not pruned.training
    assert_close(dense.state_dict(), before, rtol=0, atol=0)
    with torch.no_grad():
        assert float((pruned(xs[0]) - wanted).square().mean()) < raw / 2


def test_no_batches_are_refused():
    model = seeded(nn.Conv2d(2, 6, 3), nn.Conv2d(6, 2, 3))
    pruned, graph, keep = cut(model, images()[0], 3)
    with pytest.raises(SurgeryError, match="some batches"):
        dsa.reconstruct(pruned, model, graph, keep, [], progress=False)
