"""The parts of tracing by themselves, and random networks: masked == pruned on all of them."""

from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dsa_core.budget import Cost
from dsa_core.channels.grouping import unique_name
from dsa_core.channels.ids import NO_CHANNEL, IdBook, Ids
from dsa_core.channels.rules_reshape import blocks
from dsa_core.masks import masked
from dsa_core.surgery import load, prune, save, try_forward
from dsa_core.surgery.verify import count_macs, random_channels, randomise
from dsa_core.tracing import trace


def test_compact_ids_expand_to_what_they_were() -> None:
    full = torch.arange(4)[None, :, None].expand(2, 4, 3)
    ids = Ids.of(full)
    assert ids.base.shape == (1, 4, 1)
    assert [ids.varies(axis) for axis in range(3)] == [False, True, False]
    torch.testing.assert_close(ids.full, full)


def test_united_ids_are_one_class_and_no_channel_meets_without_effect() -> None:
    book = IdBook()
    a, b, c = book.fresh(3), book.fresh(3), book.fresh(3)
    b = torch.where(torch.tensor([True, False, True]), b, NO_CHANNEL)
    met = book.unite(a, b)
    book.unite(met, c)
    classes = book.classes()
    assert met.tolist() == a.tolist()
    assert (classes[a] == classes[c]).all()
    assert (classes[a] == classes[torch.tensor([3, 4, 5])]).tolist() == [True, False, True]
    assert len(classes[a].unique()) == 3


def test_tying_rows_skips_positions_without_channels() -> None:
    book = IdBook()
    rows = book.fresh(6).reshape(3, 2).clone()
    rows[0, 0] = NO_CHANNEL
    line = book.tie(rows)
    classes = book.classes()
    assert classes[rows[1, 0]] == classes[rows[2, 0]] == classes[line[0]]
    assert len(classes[rows[:, 1]].unique()) == 1
    assert classes[line[0]] != classes[line[1]]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_blocks_of_a_reshape_have_equal_products(shape: list[int], data: st.DataObject) -> None:
    """Merging or cutting axes: each block spans the same numbers on both sides, in order."""
    cuts = [
        data.draw(st.sampled_from([(n,), (1, n)] + ([(2, n // 2)] if n % 2 == 0 else [])))
        for n in shape
    ]
    new = [n for cut in cuts for n in cut]
    if data.draw(st.booleans()) and len(new) > 1:
        new = [new[0] * new[1], *new[2:]]
    numbers = torch.arange(torch.tensor(shape).prod().item())
    found = blocks(shape, new)
    for old_axes, new_axes in found:
        left = torch.tensor([shape[a] for a in old_axes]).prod()
        assert left == torch.tensor([new[a] for a in new_axes]).prod()
    assert [a for olds, _ in found for a in olds] == [a for a, n in enumerate(shape) if n > 1]
    assert numbers.reshape(new).numel() == numbers.numel()


def test_second_group_of_a_layer_gets_a_number() -> None:
    taken: set[str] = {"b"}
    assert [unique_name("a", taken) for _ in range(3)] == ["a", "a#2", "a#3"]
    assert taken == {"a", "a#2", "a#3", "b"}


class Random(nn.Module):
    """Blocks chosen by a list of words, each on 8 channels in and out, so that any order fits."""

    def __init__(self, words: list[str]) -> None:
        super().__init__()
        self.words = words
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.parts = nn.ModuleList(PARTS[word]() for word in words)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        older = x
        for word, part in zip(self.words, self.parts, strict=True):
            x, older = join(word, part, x, older), x
        return self.head(x.mean((2, 3)))


def join(word: str, part: nn.Module, x: Tensor, older: Tensor) -> Tensor:
    """How a block meets what came before it."""
    if word == "add":
        return x + part(x).relu()
    if word == "long add":
        return older + part(x).tanh()
    if word == "concat":
        return part(torch.cat([x, older], 1)).relu()
    if word == "gate":
        return x * part(x).sigmoid()
    if word == "shuffle":
        n, c, h, w = x.shape
        return part(x).view(n, 2, c // 2, h, w).transpose(1, 2).flatten(1, 2)
    if word == "glu":
        return nn.functional.glu(part(x), 1)
    if word == "halves":
        a, b = x.chunk(2, 1)
        return torch.cat([a, part(b).relu()], 1)
    if word == "outer slice":
        return part(torch.cat([x[:, :3], older], 1))
    return part(x)


def same(i: int, o: int, **settings: int) -> nn.Conv2d:
    return nn.Conv2d(i, o, 3, padding=1, **settings)


PARTS = {
    "conv": lambda: nn.Sequential(same(8, 8), nn.BatchNorm2d(8), nn.ReLU()),
    "norm": lambda: nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()),
    "depthwise": lambda: same(8, 8, groups=8),
    "grouped": lambda: same(8, 8, groups=2),
    "add": lambda: same(8, 8),
    "long add": lambda: same(8, 8),
    "concat": lambda: same(16, 8),
    "gate": lambda: nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1)
    ),
    "shuffle": lambda: nn.Identity(),
    "glu": lambda: same(8, 16),
    "halves": lambda: same(4, 4),
    "outer slice": lambda: same(11, 8),
    "group norm": lambda: nn.GroupNorm(2, 8),
}


@pytest.mark.slow
@given(
    st.lists(st.sampled_from(sorted(PARTS)), min_size=1, max_size=6),
    st.sampled_from([0.01, 0.3, 0.5, 0.8]),
    st.integers(0, 100),
)
def test_masked_equals_pruned_on_random_networks(words: list[str], ratio: float, seed: int) -> None:
    torch.manual_seed(seed)
    model = Random(words).double().eval()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    graph = trace(model, x)
    randomise(model)
    made = torch.cat([channels for _, _, channels in graph.makers] or [torch.empty(0).long()])
    assert made[made >= 0].unique().tolist() == list(range(graph.n_channels))
    if not graph.prunable:
        return
    keep = random_channels(graph, ratio, seed)
    pruned = prune(model, graph, keep)
    with torch.no_grad(), masked(model, graph, keep.double()):
        wanted = model(x)
    torch.testing.assert_close(try_forward(pruned, x), wanted, rtol=1e-10, atol=1e-10)
    counts = torch.stack([keep[g.start : g.start + g.size].sum() for g in graph.prunable])
    assert Cost.of(graph, "macs").at(counts) == count_macs(pruned, x)
    assert Cost.of(graph, "params").at(counts) == sum(p.numel() for p in pruned.parameters())
    with TemporaryDirectory() as folder:
        again = load(save(folder, pruned, graph, keep, name="random"), model)
    torch.testing.assert_close(try_forward(again, x), try_forward(pruned, x), rtol=0, atol=0)


@pytest.mark.parametrize("word", sorted(PARTS))
def test_every_block_leaves_something_to_prune(word: str) -> None:
    """Otherwise the property above would hold for want of channels."""
    model = Random(["conv", word, "conv"])
    assert trace(model, torch.randn(1, 3, 6, 6)).prunable
