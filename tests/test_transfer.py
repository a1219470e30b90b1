"""The comparison of notebook 08: one thing differs, and it is the channels kept."""

from pathlib import Path

import pytest
import torch
from course.exercises import transfer

from dsa_core.budget import Budget, Cost
from dsa_core.tracing import trace

F64 = torch.float64


@pytest.fixture(scope="module")
def graphs():
    segmenter, classifier = transfer.networks(0, 11)
    shapes = ((segmenter, 32), (classifier, 16))
    return [trace(model, torch.zeros(1, 1, side, side)) for model, side in shapes]


def test_both_networks_have_the_same_encoder(graphs):
    here, there = ({g.name: g.size for g in graph.prunable} for graph in graphs)
    assert set(there) < set(here)
    assert all(here[name] == size for name, size in there.items())
    assert len(there) == 5  # stem, two strided layers, the inner layers of two blocks


def test_all_allocations_keep_one_budget_and_differ_only_where_they_should(graphs):
    own = torch.tensor([0.5, 0.9, 0.4, 0.8, 0.3, 0.6, 1.0], dtype=F64)
    other = torch.tensor([0.4, 0.3, 0.9, 0.5, 0.7], dtype=F64)
    budget, cost = Budget(macs=0.5), Cost.of(graphs[0], "macs")
    found = transfer.allocate(graphs, [own, other], budget)
    counts = dict(zip(transfer.METHODS, found, strict=True))
    assert all(0.47 < cost.at(c) / cost.dense <= 0.5 for c in counts.values())
    uniform = counts["uniform"] / cost.sizes
    assert float(uniform.max() - uniform.min()) < 0.15
    decoder = (counts["its backbone alone"] / cost.sizes)[len(other) :]
    assert float(decoder.max() - decoder.min()) < 0.15
    for name, ratios in {"searched on the task": own, "carried over": other}.items():
        kept = (counts[name] / cost.sizes)[: len(ratios)]
        free = kept < 1
        correlation = torch.corrcoef(torch.stack([kept[free], ratios[free].float()]))[0, 1]
        assert float(correlation) > 0.9, name


def test_elsewhere_the_mean_of_the_backbone(graphs):
    names = [g.name for g in graphs[1].prunable]
    backbone = dict(zip(names, (0.25, 1.0, 0.5, 0.5, 0.5), strict=True))
    ratios = transfer.spread(graphs[0], backbone)
    by_name = dict(zip((g.name for g in graphs[0].prunable), ratios.tolist(), strict=True))
    assert [by_name[name] for name in names] == list(backbone.values())
    others = [ratio for name, ratio in by_name.items() if name not in backbone]
    assert others == pytest.approx([0.5, 0.5])  # (1/4 * 1 * 1/2^3)^(1/5) = (1/32)^(1/5)


def test_networks_are_drawn_from_the_seed_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, c = (transfer.networks(seed, 11) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a[0].head.weight, b[0].head.weight)
    assert not torch.equal(a[0].head.weight, c[0].head.weight)
    assert not torch.equal(a[0].stem[0].weight, a[1].stem[0].weight)
    digits = transfer.enlarged()
    assert (digits.train_images.dtype, digits.count("test")) == (torch.uint8, 360)
    assert a[1](digits.train_images[:2].float()).shape == (2, 10)


def test_the_record_that_is_shipped_keeps_its_budget(graphs):
    """What the notebook reads: counts and MACs belong together, for every seed and method."""
    path = Path(__file__).parents[1] / "data" / "records" / "dcss_transfer" / "comparisons.json"
    cost = Cost.of(graphs[0], "macs")
    done = transfer.read(path)
    assert len({c.seed for c in done}) == len(done) >= 3
    for one in done:
        assert set(one.scores) == set(one.macs) == set(one.counts) == set(transfer.METHODS)
        for name, counts in one.counts.items():
            whole = cost.at(torch.tensor(counts))
            assert one.macs[name] == pytest.approx(whole / cost.dense)
            assert whole <= one.ratio * cost.dense
