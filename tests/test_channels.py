"""Groups by hand on every toy network; what cannot be traced says why."""

import pytest
import torch
from problems_networks import TOYS, Net, Toy, conv
from torch import Tensor, nn

from dsa_core.channels import ChannelGraph
from dsa_core.errors import TraceError
from dsa_core.lab import models
from dsa_core.tracing import trace

IDS = [toy.name for toy in TOYS]


def traced(toy: Toy) -> tuple[nn.Module, ChannelGraph]:
    torch.manual_seed(0)
    model = toy.build()
    return model, trace(model, torch.randn(2, *toy.shape))


@pytest.mark.parametrize("toy", TOYS, ids=IDS)
def test_groups_of_every_pattern(toy: Toy) -> None:
    _, graph = traced(toy)
    assert {g.name: g.size for g in graph.prunable} == toy.groups
    for words in toy.frozen:
        assert words in graph.report()


@pytest.mark.parametrize("toy", TOYS, ids=IDS)
def test_groups_partition_the_prunable_channels(toy: Toy) -> None:
    model, graph = traced(toy)
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


def test_tracing_with_one_example_or_several_is_the_same() -> None:
    for toy in TOYS:
        model = toy.build()
        one, two = (trace(model, torch.randn(n, *toy.shape)) for n in (1, 3))
        assert [g.members for g in one.groups] == [g.members for g in two.groups], toy.name
        assert [x.coefficient for x in one.layers] == [x.coefficient for x in two.layers], toy.name
        assert one.fixed_macs == two.fixed_macs, toy.name


def test_names_of_tied_weights_are_all_marked() -> None:
    _, graph = traced(next(t for t in TOYS if t.name == "tied modules"))
    assert set(graph.axes["t1.weight"]) == set(graph.axes["t2.weight"]) == {0, 1}
    assert graph.unused == ()


def test_report_names_unknown_operators_and_unused_parameters() -> None:
    _, graph = traced(next(t for t in TOYS if t.name == "unknown op"))
    assert graph.unknown_ops == {"aten.renorm.default": 1}
    _, graph = traced(next(t for t in TOYS if t.name == "unused module"))
    assert graph.unused == ("spare.weight", "spare.bias")
    assert "spare.weight" in graph.report()


def test_table_lists_every_prunable_group() -> None:
    graph = trace(models.build("resnet8"), models.example_input("resnet8"))
    lines = str(graph).splitlines()
    assert len([x for x in lines if x.lstrip()[:1].isdigit() and "stay" not in x]) == 6
    assert "10 channels stay: network output" in lines[-1]


def test_model_is_left_as_it_was() -> None:
    model = models.build("resnet8").train()
    model.layer1.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trace(model, models.example_input("resnet8"))
    assert model.training
    assert not model.layer1.training
    assert not model.layer1[0].bn1.training
    assert not model._forward_hooks
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


class Branch(nn.Module):
    """A branch on the values of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu() if x.sum() > 0 else -x


def test_data_dependent_branch_is_refused_by_name() -> None:
    model = nn.Sequential()
    model.add_module("stem", conv(3, 4))
    model.add_module("gate", Branch())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.gate.eval()
    with pytest.raises(TraceError, match=r"gate \(Branch, test_channels.py:\d+\)"):
        trace(model, torch.randn(1, 3, 8, 8))
    assert [m.training for m in model] == [True, False]
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_same_class_elsewhere_does_not_take_the_blame() -> None:
    class Maybe(Branch):
        def __init__(self, flag: bool) -> None:
            super().__init__()
            self.flag = flag

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if self.flag else x

    model = nn.Sequential()
    for i, flag in enumerate([False, True, False]):
        model.add_module(f"part{i}", Maybe(flag))
    with pytest.raises(TraceError, match="part1"):
        trace(model, torch.randn(1, 3, 8, 8))


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


def test_wrong_input_is_an_error_that_names_the_layer() -> None:
    with pytest.raises(TraceError, match="example of the right shape"):
        trace(models.build("resnet8"), torch.randn(1, 3, 8, 8))
