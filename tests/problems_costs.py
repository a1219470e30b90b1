"""Costs and rounding the slow way: dense outer products, and one step of rounding at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dsa_core.budget import Budget, Cost, QuadraticForm, Resource
from dsa_core.channels import ChannelGraph, Group, Layer


def random_costs(k: int, seed: int, resources: Sequence[Resource] = ("macs",)) -> tuple[Cost, ...]:
    """Costs of the same K groups with random whole coefficients a channel and a pair."""
    g = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 40, (k,), generator=g)
    n, costs = sizes.double(), []
    for resource in resources:
        pair = torch.randint(0, 300, (k, k), generator=g) * (torch.rand(k, k, generator=g) < 0.5)
        alone = torch.randint(1, 500, (k,), generator=g)
        Q = torch.outer(n, n) * (pair + pair.T).double()
        form = QuadraticForm(Q, n * alone, float(17 * len(costs)))
        costs.append(Cost(resource, form, sizes, tuple(f"g{i}" for i in range(k))))
    return tuple(costs)


def exact(cost: Cost, counts: Tensor) -> int:
    """The cost of `random_costs` in Python's whole numbers, without the form's own arithmetic."""
    n = cost.sizes.tolist()
    kept, rows = counts.tolist(), range(len(n))
    pair = [[round(float(cost.form.Q[i, j])) // (n[i] * n[j]) for j in rows] for i in rows]
    alone = [round(float(cost.form.q[i])) // n[i] for i in rows]
    total = sum(pair[i][j] * kept[i] * kept[j] for i in rows for j in rows)
    return total + sum(alone[i] * kept[i] for i in rows) + round(cost.form.constant)


def round_slowly(alpha: Tensor, costs: Sequence[Cost], budget: Budget) -> Tensor:
    """`round_to_channels`, a step at a time, each by the whole form."""
    sizes, step = costs[0].sizes, budget.divisor
    limits = [
        ratio * cost.dense + 1e-6 for ratio, cost in zip(budget.ratios.values(), costs, strict=True)
    ]
    least = budget.least_counts(costs[0])

    def fits(counts: Tensor) -> bool:
        return all(cost.at(counts) <= limit for cost, limit in zip(costs, limits, strict=True))

    def changed(counts: Tensor, k: int, value: int) -> Tensor:
        return torch.where(torch.arange(len(counts)) == k, value, counts)

    target = alpha.double().clamp(1e-9, 1) * sizes
    counts = torch.maximum(budget.step_down((target + 1e-9).long(), sizes), least)
    while not fits(counts):
        lower = torch.where(counts >= sizes, (sizes - 1) // step * step, counts - step)
        k = int(torch.where(lower >= least, (counts / target).log(), -torch.inf).argmax())
        counts = changed(counts, k, int(lower[k]))
    still_open = counts < sizes
    while still_open.any():
        k = int(torch.where(still_open, (target / counts).log(), -torch.inf).argmax())
        more = changed(counts, k, min(int(counts[k]) + step, int(sizes[k])))
        if fits(more):
            counts = more
        still_open[k] = fits(more) and int(counts[k]) < int(sizes[k])
    return counts


def outer_products(graph: ChannelGraph, resource: Resource) -> QuadraticForm:
    """The form of MACs or parameters as a dense sum of outer products, a (K,) length an axis."""
    k = len(graph.sizes)
    group_of = torch.repeat_interleave(torch.arange(k), graph.sizes)
    Q, q, constant = torch.zeros(k, k).double(), torch.zeros(k).double(), 0.0
    if resource == "macs":
        tensors = [(x.weight, x.shape[:2], x.coefficient) for x in graph.layers]
        constant += graph.fixed_macs
        for total, heads in graph.products:  # as many MACs a head
            kept = torch.bincount(group_of[heads[heads >= 0]], minlength=k).double()
            q += total / len(heads) * kept
            constant += total / len(heads) * float((heads < 0).sum())
    else:
        tensors = [(name, shape, 1) for name, shape in graph.parameters.items()]
    for name, shape, factor in tensors:
        lengths = [(torch.zeros(k).double(), 1.0)] * 2
        for axis, size in enumerate(shape):
            flat = graph.axes.get(name, {}).get(axis, torch.full((size,), -1))
            n = torch.bincount(group_of[flat[flat >= 0]], minlength=k).double()
            lengths.append((n, float((flat < 0).sum())))
        lengths.sort(key=lambda length: not length[0].any())  # those with channels first
        (n0, c0), (n1, c1), *rest = lengths
        for _, c in rest:
            factor *= c
        Q += factor * (torch.outer(n0, n1) + torch.outer(n1, n0)) / 2
        q += factor * (c1 * n0 + c0 * n1)
        constant += factor * c0 * c1
    return QuadraticForm(Q, q, constant)


def chain_graph(n_layers: int, width: int = 64, skip: int = 8) -> ChannelGraph:
    """The graph of a chain of 3x3 convolutions on 8x8 maps; every `skip`-th also reads the stem.

    Written down, not traced: layer i makes group i, and the last layer's channels stay.
    """
    k = n_layers - 1
    made = [torch.arange(i * width, (i + 1) * width) for i in range(k)]
    read = [torch.full((3,), -1), *made]
    layers, axes, parameters = [], {}, {}
    for i in range(n_layers):
        out = made[i] if i < k else torch.full((10,), -1)
        into = torch.cat([read[i], made[0]]) if i > 1 and i % skip == 0 else read[i]
        name, shape = f"conv{i}.weight", (len(out), len(into), 3, 3)
        layers.append(Layer(f"conv{i}", "conv", name, shape, 9 * 64, out, into))
        axes[name] = {a: ids for a, ids in enumerate((out, into)) if bool((ids >= 0).any())}
        parameters[name] = shape
    return ChannelGraph(
        groups=tuple(Group(f"conv{i}", width, (f"conv{i}",), None, i * width) for i in range(k)),
        axes=axes, layers=tuple(layers), norms=(), parameters=parameters, fixed_macs=0, frozen={},
        unknown_ops={}, unused=(), input_shape=(1, 3, 8, 8), example={}, outputs=10,
    )  # fmt: skip
