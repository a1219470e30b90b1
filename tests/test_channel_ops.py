"""The parts of tracing by themselves."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsa_core.channels.grouping import unique_name
from dsa_core.channels.ids import NO_CHANNEL, IdBook, Ids
from dsa_core.channels.rules_reshape import blocks


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
@settings(deadline=None, max_examples=60)
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
