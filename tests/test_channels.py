"""Groups by hand on every toy network; what cannot be traced says why."""

import pytest
import torch
import torch.nn.functional as F
from problems_networks import TOYS, Net, Part, Toy, agrees, conv
from torch import Tensor, nn

from dsa_core.channels import ChannelGraph
from dsa_core.errors import TraceError
from dsa_core.lab import models
from dsa_core.tracing import trace


@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.name)
def test_groups_of_every_pattern(toy: Toy) -> None:
    torch.manual_seed(0)
    model = toy.build()
    graph, one = (trace(model, torch.randn(n, *toy.shape)) for n in (2, 1))
    assert {g.name: g.size for g in graph.prunable} == toy.groups
    for words in toy.frozen:
        assert words in graph.report()
    assert "()" not in graph.report()  # an operator of no module has no place to name
    assert [g.members for g in one.groups] == [g.members for g in graph.groups]
    assert [x.coefficient for x in one.layers] == [x.coefficient for x in graph.layers]
    assert one.fixed_macs == graph.fixed_macs
    channels_lie_where_the_graph_says(model, graph)


def channels_lie_where_the_graph_says(model: nn.Module, graph: ChannelGraph) -> None:
    """The groups partition the prunable channels; every axis has one entry for each position."""
    starts = [g.start for g in graph.prunable]
    assert starts == graph.offsets[:-1].tolist()
    made = torch.cat([channels for _, _, channels in graph.producers])
    assert made[made >= 0].unique().tolist() == list(range(graph.n_channels))
    state = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    for name, by_axis in graph.axes.items():
        for axis, channels in by_axis.items():
            assert len(channels) == state[name].shape[axis]
            assert int(channels.max()) < graph.n_channels


@pytest.mark.parametrize(
    ("name", "groups"),
    [("resnet20", 12), ("resnet56", 30), ("resnet18_cifar", 12), ("vgg16_cifar", 13)],
)
def test_number_of_groups_of_the_papers_networks(name: str, groups: int) -> None:
    graph = trace(models.build(name), models.example_input(name))
    assert len(graph.prunable) == groups
    assert graph.frozen == {"network output": 10}
    assert not graph.unknown_ops


def test_members_share_one_group() -> None:
    graph = trace(models.build("resnet20"), models.example_input("resnet20"))
    members = {g.name: g.members for g in graph.prunable}
    assert members["conv1"] == ("conv1", *(f"layer1.{i}.conv2" for i in range(3)))
    assert set(members["layer2.0.conv2"]) == {
        "layer2.0.conv2", "layer2.0.shortcut.conv", "layer2.1.conv2", "layer2.2.conv2",
    }  # fmt: skip


FIXED = {  # layers whose weight is a buffer
    "conv2d": (lambda n, x: F.conv2d(x, n.k), torch.rand(8, 8, 1, 1)),
    "conv_transpose2d": (lambda n, x: F.conv_transpose2d(x, n.k), torch.rand(8, 8, 1, 1)),
    "linear": (lambda n, x: F.linear(x.movedim(1, -1), n.k).movedim(-1, 1), torch.rand(8, 8)),
    "matrix": (lambda n, x: (x.movedim(1, -1) @ n.k).movedim(-1, 1), torch.rand(8, 8)),
}


@pytest.mark.parametrize("name", FIXED)
def test_what_a_layer_with_a_buffer_for_a_weight_reads_and_makes_stays(name: str) -> None:
    function, weight = FIXED[name]
    model = nn.Sequential(conv(3, 8), Part(function, k=weight), conv(8, 5), nn.ReLU(), conv(5, 2))
    graph = trace(model, x := torch.randn(1, 3, 8, 8))
    assert [g.name for g in graph.prunable] == ["2"]
    assert "16 channels stay: the weight 1.k is a buffer, not a parameter" in graph.report()
    agrees(model, graph, x)


def test_channels_that_a_buffer_blurs_are_a_group_of_their_own() -> None:
    def blurred(n: Part, x: Tensor) -> Tensor:
        a, b = x.split(n.sizes, 1)
        return torch.cat([F.conv2d(a, n.k, padding=1, groups=a.shape[1]), b], 1)

    blur = Part(blurred, k=torch.rand(4, 1, 3, 3), sizes=[4, 8])
    model = nn.Sequential(conv(3, 12), blur, conv(12, 5))
    graph = trace(model, x := torch.randn(1, 3, 8, 8))
    assert {g.name: g.size for g in graph.prunable} == {"0": 4, "0#2": 8}
    agrees(model, graph, x)


def test_control_flow_operator_is_refused() -> None:
    def choose(n: nn.Module, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda y: y.sin(), lambda y: y.cos(), (n.a(x),))

    with pytest.raises(TraceError, match="cond is control flow"):
        trace(Net(choose, 4, a=conv(3, 4)), torch.randn(1, 3, 8, 8))


def test_a_value_read_into_python_freezes_what_it_came_from() -> None:
    def rescale(n: nn.Module, x: Tensor) -> Tensor:
        x = n.a(x).relu()
        return n.b(x * x.mean().item()).relu()

    model = Net(rescale, 5, a=conv(3, 6), b=conv(6, 5))
    try:
        graph = trace(model, torch.randn(2, 3, 8, 8))
    except TraceError:
        return  # refusing is as good
    assert [g.name for g in graph.prunable] == ["b"]


@pytest.mark.parametrize("part", [nn.ReLU(), conv(3, 3, groups=3)], ids=["none", "depthwise"])
def test_nothing_to_prune_is_an_error(part: nn.Module) -> None:
    with pytest.raises(TraceError, match="nothing to prune"):
        trace(nn.Sequential(part), torch.randn(1, 3, 8, 8))
