"""Attention heads are units: the rows of q, k, v and the columns of the projection go together."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems_networks import Part, agrees
from torch import Tensor, nn

from dsa_core.budget import Cost
from dsa_core.channels.stand_ins import standing_in
from dsa_core.ranking import importance
from dsa_core.surgery import export_onnx, load, prune, save, try_forward
from dsa_core.surgery.verify import count_macs, random_channels
from dsa_core.tracing import trace

torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
X = torch.zeros(2, 5, 12)
Forward = Callable[[Any, Tensor], Tensor]


def scores(q: Tensor, k: Tensor) -> Tensor:
    return (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1)


def fused(m: Any, x: Tensor) -> Tensor:
    qkv = m.qkv(x).reshape(*x.shape[:2], 3, m.num_heads, m.head_dim).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    y = (scores(q, k) @ v).transpose(1, 2)
    return m.proj(y.reshape(*x.shape[:2], m.attn_dim))


def each_head_fused(m: Any, x: Tensor) -> Tensor:
    qkv = m.qkv(x).view(*x.shape[:2], m.heads, 3, 4).transpose(1, 2)
    y = F.scaled_dot_product_attention(*qkv.unbind(3))
    return m.proj(y.transpose(1, 2).flatten(2))


def split(m: Any, x: Tensor) -> Tensor:
    q, k, v = (apart(y, 4) for y in m.qkv(x).split(m.split_size, 2))
    return m.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def apart(x: Tensor, size: int) -> Tensor:
    return x.view(*x.shape[:-1], -1, size).transpose(1, 2)


def separate(m: Any, x: Tensor) -> Tensor:
    q, k, v = (apart(layer(x), 4) for layer in (m.q, m.k, m.v))
    return m.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def counted(m: Any, x: Tensor) -> Tensor:
    layers = (m.q, m.k, m.v)
    q, k, v = (y(x).view(*x.shape[:-1], m.heads, 4).transpose(1, 2) for y in layers)
    return m.proj((scores(q, k) @ v).transpose(1, 2).flatten(2))


def rotated(x: Tensor) -> Tensor:
    angle = torch.arange(x.shape[-2])[:, None] * torch.tensor([1.0, 0.1, 1.0, 0.1])
    left, right = x.chunk(2, -1)
    return x * angle.cos().to(x) + torch.cat([-right, left], -1) * angle.sin().to(x)


def grouped(m: Any, x: Tensor) -> Tensor:
    q, k, v = (apart(layer(x), 4) for layer in (m.q, m.k, m.v))
    k, v = (y[:, :, None].expand(-1, -1, 3, -1, -1).flatten(1, 2) for y in (rotated(k), v))
    return m.proj(F.scaled_dot_product_attention(rotated(q), k, v).transpose(1, 2).flatten(2))


def grouped_by_torch(m: Any, x: Tensor) -> Tensor:
    q, k, v = (apart(layer(x), 4) for layer in (m.q, m.k, m.v))
    y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    return m.proj(y.transpose(1, 2).flatten(2))


def biased(m: Any, x: Tensor) -> Tensor:
    """Heads as examples of a batch, and for each a bias by distance, from a table."""
    q, k, v = (apart(layer(x), 4) for layer in (m.q, m.k, m.v))
    places = torch.arange(5)
    bias = m.table[places[:, None] - places + 4].permute(2, 0, 1)[None].expand(len(x), -1, -1, -1)
    weights = torch.baddbmm(bias.flatten(0, 1), q.flatten(0, 1), k.flatten(0, 1).mT).softmax(-1)
    y = torch.bmm(weights, v.flatten(0, 1)).unflatten(0, (len(x), -1))
    return m.proj(y.transpose(1, 2).flatten(2))


def across_channels(m: Any, x: Tensor) -> Tensor:
    q, k, v = (F.normalize(apart(layer(x), 4), dim=-2) for layer in (m.q, m.k, m.v))
    return m.proj((v @ (q.mT @ k).softmax(-1)).transpose(1, 2).flatten(2))


def one_head(m: Any, x: Tensor) -> Tensor:
    return m.proj(scores(m.q(x), m.k(x)) @ m.v(x))


def written(m: Any, x: Tensor) -> Tensor:
    q, k, v = (layer(x).view(*x.shape[:-1], 6, -1).transpose(1, 2) for layer in (m.q, m.k, m.v))
    return m.proj((scores(q, k) @ v).transpose(1, 2).flatten(2))


QKV = {"qkv": (12, 72), "proj": (24, 12)}
ALL = {"q": (12, 24), "k": (12, 24), "v": (12, 24), "proj": (24, 12)}
FEW = ALL | {"k": (12, 8), "v": (12, 8)}
# what computes, its numbers, its layers; the group of heads and their count, the numbers set anew
CASES: dict[str, tuple[Forward, dict[str, int], dict[str, Any], dict[str, int], set[str]]] = {
    "fused": (fused, {"num_heads": 6, "head_dim": 4, "attn_dim": 24}, QKV, {"qkv": 6},
              {"num_heads", "attn_dim"}),
    "each head fused": (each_head_fused, {"heads": 6}, QKV, {"qkv": 6}, {"heads"}),
    "split": (split, {"split_size": 24}, QKV, {"qkv": 6}, {"split_size"}),
    "separate": (separate, {}, ALL, {"q": 6}, set()),
    "counted": (counted, {"heads": 6, "dim": 12}, ALL, {"q": 6}, {"heads"}),
    "grouped": (grouped, {}, FEW, {"q": 2}, set()),
    "grouped by torch": (grouped_by_torch, {}, FEW, {"q": 2}, set()),
    "biased": (biased, {}, ALL | {"table": nn.Parameter(torch.randn(9, 6))}, {"q": 6}, set()),
    "across channels": (across_channels, {}, ALL, {"q": 6}, set()),
    "one head": (one_head, {}, ALL, {"v": 24}, set()),
    "written": (written, {}, ALL, {}, set()),
}  # fmt: skip


def attentive(name: str) -> nn.Module:
    torch.manual_seed(0)
    function, numbers, layers, _, _ = CASES[name]
    made = {n: nn.Linear(*it) if isinstance(it, tuple) else it for n, it in layers.items()}
    return nn.Sequential(Part(function, **numbers, **made), nn.Linear(12, 3))


@pytest.mark.parametrize("name", CASES)
def test_heads_go_together(name: str) -> None:
    *_, groups, attributes = CASES[name]
    model = attentive(name)
    graph = trace(model, X)
    found = {g.name: g.size for g in graph.prunable}
    assert found == {f"0.{n}": size for n, size in groups.items()} | {"0.proj": 12}
    assert set(graph.remedies.attributes) == {f"0.{n}" for n in attributes}
    agrees(model, graph, X, files=True)


def test_products_cost_by_their_heads() -> None:
    """5 tokens, 6 heads of 4: two products of 5 * 5 * 4 MACs for each head."""
    model = attentive("separate")
    graph, one = trace(model, X), torch.ones(2, dtype=torch.int64)
    assert sum(macs for macs, _ in graph.products) == 6 * 2 * 5 * 5 * 4
    assert graph.fixed_macs == 0
    kept_head = 5 * 4 * 12 * 3 + 2 * 5 * 5 * 4
    assert Cost.of(graph, "macs").at(one) == kept_head + 5 * 4 * 1 + 5 * 3


def test_importance_of_a_head_is_the_norm_of_the_rows_that_make_it() -> None:
    model = attentive("grouped")
    graph = trace(model, X)
    a: Any = model[0]
    rows = [a.q.weight.view(2, -1), a.k.weight.view(2, -1), a.v.weight.view(2, -1)]
    expected = torch.cat(rows, 1).norm(dim=1)
    torch.testing.assert_close(importance(model, graph, "l2")[:2], expected.detach())


@pytest.mark.parametrize(
    ("first", "batched", "weights", "averaged"), [*itertools.product((True, False), repeat=4)]
)
def test_multi_head_attention_stands_in_for_torchs(
    first: bool, batched: bool, weights: bool, averaged: bool
) -> None:
    torch.manual_seed(0)
    mha = nn.MultiheadAttention(12, 3, batch_first=first).double().eval()
    x = torch.randn(*((4, 5, 12) if batched else (5, 12)), dtype=torch.float64)
    examples, tokens = ((4, 5) if first else (5, 4)) if batched else (1, 5)
    padding = torch.zeros(examples, tokens).bool() if batched else torch.zeros(tokens).bool()
    padding[..., -1] = True
    given: Any = {"key_padding_mask": padding, "need_weights": weights,
                  "average_attn_weights": averaged,
                  "attn_mask": torch.ones(tokens, tokens).triu(1).bool()}  # fmt: skip
    for keys in (x, x + 1):
        wanted = mha(x, keys, keys, **given)
        with standing_in(mha):
            found = mha(x, keys, keys, **given)
        torch.testing.assert_close(found, wanted)
    assert type(mha) is nn.MultiheadAttention


@pytest.mark.parametrize(
    ("window", "shift", "size"),
    [((4, 4), (2, 2), (8, 8)), ((4, 3), (2, 1), (10, 8)), ((4, 4), (0, 0), (8, 6)),
     ((4, 4), (2, 2), (4, 12)), ((4, 4), (0, 2), (8, 8))],
)  # fmt: skip
def test_windows_stand_in_for_torchvisions(window: Any, shift: Any, size: Any) -> None:
    kind: Any = torchvision.models.swin_transformer.ShiftedWindowAttention
    model = kind(12, list(window), list(shift), 3).double()
    x = torch.randn(2, *size, 12, dtype=torch.float64)
    wanted = model(x)
    with standing_in(model):
        torch.testing.assert_close(model(x), wanted)


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(12, 3, 16, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Linear(12, 3))


def swin() -> nn.Module:
    return torchvision.models.SwinTransformer(
        [2, 2], 12, [2, 2], [3, 6], [4, 4], num_classes=3, mlp_ratio=2.0
    )


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[int], str]] = {
    "encoder": (encoder, (2, 5, 12), [3, 16, 3, 16],
                "when cut, MultiheadAttention becomes HeadsApart, of the same parameters: "
                "0.layers.0.self_attn, 0.layers.1.self_attn"),
    "swin": (swin, (1, 3, 16, 16), [3, 24, 3, 24, 6, 48, 6, 48],
             "when cut, ShiftedWindowAttention becomes WindowHeads, of the same parameters: "
             "features.1.0.attn, features.1.1.attn, features.3.0.attn, features.3.1.attn"),
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_torchs_attention_loses_heads_and_is_cut_again_and_saved(name: str, tmp_path: Path) -> None:
    build, shape, sizes, told = MODULES[name]
    torch.manual_seed(0)
    dense, x = build().eval(), torch.randn(shape)
    graph = trace(dense, x)
    assert [g.size for g in graph.prunable] == sizes
    assert told in graph.report()
    assert told not in graph.freeze({g.name: "" for g in graph.prunable}).report()
    agrees(dense, graph, x, files=True)
    once = prune(dense, graph, random_channels(graph, 0.7, 1))
    assert any(type(m) is not type(n) for m, n in zip(once.modules(), dense.modules(), strict=True))
    twice = prune(once, again := trace(once, x), keep := random_channels(again, 0.7, 1))
    assert told not in again.report()
    assert count_macs(twice, x) < count_macs(once, x) < count_macs(dense, x)
    loaded = load(save(tmp_path / "it", twice, again, keep, name="it"), dense)
    torch.testing.assert_close(try_forward(loaded, x), try_forward(twice, x))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_networks_with_fewer_heads_are_exported(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    build, shape, *_ = MODULES[name]
    dense, x = build().eval(), torch.randn(shape)
    graph = trace(dense, x)
    export_onnx(prune(dense, graph, random_channels(graph, 0.5, 1)), tmp_path / "it.onnx", x)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_b_16", "swin_t"])
def test_large_vision_transformers_can_be_cut_to_a_tenth(name: str) -> None:
    graph = trace(getattr(torchvision.models, name)().eval(), torch.randn(1, 3, 224, 224))
    cost = Cost.of(graph, "macs")
    assert cost.at(torch.ones_like(cost.sizes)) <= 0.1 * cost.dense


def test_an_encoder_that_lost_heads_takes_padding():
    layer = nn.TransformerEncoderLayer(16, 4, 16, batch_first=True)
    dense, x = nn.TransformerEncoder(layer, 2).eval(), torch.randn(2, 5, 16)
    padding = torch.zeros(2, 5, dtype=torch.bool)
    graph = trace(dense, {"src": x, "src_key_padding_mask": padding})
    pruned = prune(dense, graph, random_channels(graph, 0.7, 1)).eval()
    padding[1, 3:] = True
    with torch.no_grad():
        found = pruned(x, src_key_padding_mask=padding)
        short = pruned(x[1:, :3])
    torch.testing.assert_close(found[1:, :3], short, rtol=1e-4, atol=1e-5)
