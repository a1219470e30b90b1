"""The picture of the groups says what the graph says."""

import torch
from course.figures.graph import Step, graph_figure, wiring
from matplotlib.figure import Figure
from problems_networks import Net, cbr, chain, conv
from torch import nn

from dsa_core import models, trace
from dsa_core.channels import ChannelGraph
from dsa_core.lab.plots.style import png


def of(model: nn.Module, *shape: int) -> ChannelGraph:
    return trace(model, torch.zeros(1, *(shape or (3, 8, 8))))


def test_wiring_of_a_residual_network() -> None:
    graph = of(models.build("resnet8"), 1, 8, 8)
    wires, steps = wiring(graph)
    assert [w.label for w in wires[1:3]] == ["0  conv1, 16", "1  layer1.0.conv1, 16"]
    assert [w.pruned for w in wires] == [False] + [True] * 6 + [False]
    assert steps[:3] == [
        Step("conv1", "conv", (0,), (1,)),
        Step("layer1.0.conv1", "conv", (1,), (2,)),
        Step("layer1.0.conv2", "conv", (2,), (1,)),  # the sum: back onto the stem's wire
    ]
    assert steps[-1] == Step("linear", "linear", (6,), (7,))
    # stem and layer1.0.conv2; one producer; ...; conv2 and the shortcut of layers 2 and 3; output
    assert [w.tied for w in wires] == [0, 2, 1, 1, 2, 1, 2, 1]
    assert (wires[1].first, wires[1].last) == (0, 5)  # the shortcut of layer 2 is the sixth layer


def test_wiring_of_concatenation_and_depthwise() -> None:
    net = Net(lambda n, x: torch.cat([n.a(x), n.b(x)], 1), 6, a=cbr(3, 4), b=cbr(3, 2))
    _, steps = wiring(of(net))
    assert [s.makes for s in steps] == [(1,), (2,), (3,)]
    assert steps[-1].reads == (1, 2)  # the head reads both branches
    net = chain(4, a=conv(3, 4), depth=conv(4, 4, groups=4), b=conv(4, 4))
    wires, steps = wiring(of(net))
    assert steps[1] == Step("depth", "depthwise", (1,), (1,))
    assert wires[1].tied == 1  # a depthwise layer makes no channel of its own


def test_layers_after_a_frozen_one_read_what_stays() -> None:
    net = chain(4, a=conv(3, 4), mix=lambda x: x.softmax(1), b=conv(4, 4))
    _, steps = wiring(of(net))
    assert (steps[0].makes, steps[1].reads, steps[1].makes) == ((2,), (2,), (1,))


def test_figures_are_drawn() -> None:
    graph = of(models.build("resnet8"), 1, 8, 8)
    figures = [
        graph_figure(graph, title="eight"),
        graph_figure(of(chain(4, a=conv(3, 4), depth=conv(4, 4, groups=4)))),
    ]
    for figure in figures:
        assert isinstance(figure, Figure)
        assert png(figure, dpi=40).startswith(b"\x89PNG")
        assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)
    assert [t.get_text() for t in figures[0].axes[0].get_xticklabels()][1] == "layer1.0.conv1"
