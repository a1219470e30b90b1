"""Run a network once on channel ids instead of numbers: abstract interpretation of its graph."""

import operator
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.fx import Graph, GraphModule, Node

from dsa_core.channels.ids import NO_CHANNEL, IdBook, Ids
from dsa_core.channels.opcall import OpCall, StateIds, bind
from dsa_core.channels.program import Program, name_of_module
from dsa_core.channels.recipes import Computed, recipes
from dsa_core.errors import TraceError

REGIONS = ("wrap_with_set_grad_enabled", "wrap_with_autocast")  # `with torch.no_grad():` and so on
ONLY_SHAPES = (
    "_assert_tensor_metadata",
    "sym_size",
    "sym_numel",
    "sym_stride",
    "sym_is_contiguous",
)


@dataclass
class LayerTrace:
    """A layer that costs MACs: for one example `coefficient * rows * columns` of its weight."""

    name: str
    kind: str
    weight: str
    coefficient: int
    out_ids: Tensor
    in_ids: Tensor | None


@dataclass
class NormTrace:
    """A batch normalisation: the names of its scale and shift, and the ids they belong to."""

    weight: str
    bias: str | None
    ids: Tensor


Rule = Callable[["Tracer", OpCall], Any]


@dataclass
class Tracer:
    """The state of one interpretation: ids given out so far, and what was learned on the way.

    Attributes:
        rules: what each operator does to ids.
        aliases: every name of a parameter or buffer -> its first name; tied weights have several.
        batch: examples in the call, by which MACs are divided.
        rank: axes of the first input.
        outputs: channels of the first tensor returned that has two axes: the length of the axis
            that they lie on.
        turned: views to read another way, by their place in `views`; once for each turn.
        views, ways: of each view that cuts an axis, the ids on it, and into how many axes.
        wishes: ids that would have to lie along another axis of the view that cut them.
        products: of products of activations, their MACs for one example, and the ids that share
            them, each alike.
        seen: path of a module -> the ids that its own operators handled.
        recipes, inside: computed weights, and the nodes that compute them (see `recipes`).
    """

    rules: dict[str, Rule]
    aliases: Mapping[str, str]
    book: IdBook = field(default_factory=IdBook)
    axes: dict[str, dict[int, Tensor]] = field(default_factory=lambda: defaultdict(dict))
    elements: dict[str, StateIds] = field(default_factory=dict)
    layers: dict[str, LayerTrace] = field(default_factory=dict)
    norms: list[NormTrace] = field(default_factory=list)
    unknown_ops: dict[str, int] = field(default_factory=dict)
    pinned: dict[str, str] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    fixed_macs: int = 0
    batch: int = 1
    rank: int = 0
    outputs: int = 1
    turned: Sequence[int] = ()
    views: list[Tensor] = field(default_factory=list)
    ways: list[int] = field(default_factory=list)
    wishes: list[Tensor] = field(default_factory=list)
    products: list[tuple[int, Tensor]] = field(default_factory=list)
    seen: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    recipes: dict[Node, list[Node]] = field(default_factory=dict)
    inside: set[Node] = field(default_factory=set)

    def run(self, program: Program) -> None:
        """Interpret the whole graph, then freeze what leaves the network."""
        holders = [n for n in program.graph.nodes if n.op == "placeholder"]
        inputs = [self._placeholder(*program.inputs[node], node) for node in holders]
        states = {n for n, v in zip(holders, inputs, strict=True) if isinstance(v, StateIds)}
        self.recipes, self.inside = recipes(program.graph, states)
        values = self._graph(program.graph, inputs, program.owner)
        self.outputs = next((width(value) for value in values if len(value.shape) > 1), 1)
        for value in values:
            self.book.freeze(value.base, "network output")
        for name, reason in self.pinned.items():
            for ids in self.axes.get(name, {}).values():
                self.book.freeze(ids, reason)
            if self.elements[name].touched:
                self.book.freeze(self.elements[name].base, reason)

    def mark_axis(self, name: str, axis: int, ids: Tensor) -> None:
        """Note that an axis of a parameter or buffer carries these ids, with what it carried."""
        before = self.axes[name].get(axis)
        self.axes[name][axis] = ids if before is None else self.book.unite(before, ids)

    def opaque(self, call: OpCall, reason: str) -> list[Ids]:
        """Freeze everything that goes in; what comes out cannot be pruned either."""
        why = f"{reason} ({call.module or 'network'})"
        for value in call.tensors():
            if isinstance(value, StateIds):
                self.pinned.setdefault(value.name, why)
            else:
                self.book.freeze(value.base, why)
        return [self.frozen_ids(shape, reason) for shape in call.shapes]

    def per_example(self, call: OpCall, macs: int) -> int:
        """MACs of one example, of those of the batch.

        Raises:
            TraceError: they are not a multiple: the operator does not run once for each example.
        """
        if macs % self.batch:
            raise TraceError(
                f"{call.module or 'the network'}: {call.op} runs once for the whole batch of "
                f"{self.batch}, so that its MACs are not those of one example: give an example of "
                "one"
            )
        return macs // self.batch

    def frozen_ids(self, shape: tuple[int, ...], reason: str) -> Ids:
        """One fresh frozen id at every position."""
        ids = self.book.fresh(1)
        self.book.freeze(ids, reason)
        return Ids.constant(shape, int(ids[0]))

    def wished(self) -> tuple[int, ...]:
        """`turned`, with one turn more for every view of ids that are wished to lie otherwise."""
        if not self.wishes:
            return tuple(self.turned)
        classes = self.book.classes()
        wanted = classes[torch.cat(self.wishes)].unique()
        found = [i for i, v in enumerate(self.views) if bool(torch.isin(classes[v], wanted).any())]
        more = [i for i in found if self.turned.count(i) < self.ways[i] - 1]
        return (*self.turned, *more)

    def fixed(self, shape: tuple[int, ...]) -> Ids:
        """A constant. Its shape cannot change, so the channels that it meets one by one stay."""
        if prod(shape) <= 1:
            return Ids.constant(shape)
        return self.frozen_ids(shape, "meets a constant of fixed shape")

    def _placeholder(self, kind: InputKind, target: str, node: Node) -> Any:
        value = node.meta["val"]
        if not isinstance(value, Tensor):  # a number, a string or None that was passed in
            return value
        shape = tuple(value.shape)
        if kind == InputKind.USER_INPUT:
            return self.frozen_ids(shape, "network input")
        if kind == InputKind.CONSTANT_TENSOR:
            return self.fixed(shape)
        name = self.aliases.get(target, target)
        if node.users:
            self.read.add(name)
        return self.elements.setdefault(name, StateIds(self.book, shape, name))

    def _graph(self, graph: Graph, inputs: Sequence[Any], owner: GraphModule | None) -> list[Ids]:
        """Interpret a graph; returns the tensors that it returns."""
        env: dict[Node, Any] = {}
        feed = iter(inputs)
        for node in graph.nodes:
            if node.op == "placeholder":
                env[node] = next(feed)
            elif node.op == "get_attr":
                env[node] = self._attribute(node, owner)
            elif node in self.recipes:
                sources = [env[source] for source in self.recipes[node]]
                env[node] = Computed(tuple(node.meta["val"].shape), sources)
            elif node.op == "call_function" and node not in self.inside:
                env[node] = self._call(node, env)
        returned = torch.utils._pytree.tree_leaves(graph.output_node().args)
        values = [env[v] for v in returned if isinstance(v, Node)]
        return [v for v in values if isinstance(v, Ids)]

    def _attribute(self, node: Node, owner: GraphModule | None) -> Any:
        value = operator.attrgetter(str(node.target))(owner)
        return self.fixed(tuple(value.shape)) if isinstance(value, Tensor) else value

    def _call(self, node: Node, env: dict[Node, Any]) -> Any:
        if node.target is operator.getitem:
            return env[node.args[0]][node.args[1]]  # type: ignore[index]
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            return self._region(node, env)
        call = bind(node, env)
        if not call.shapes:
            if call.tensors() and call.op not in ONLY_SHAPES:
                self.opaque(call, f"{call.op} reads values")
            return None
        pointwise = torch.Tag.pointwise in node.target.tags  # type: ignore[union-attr]
        rule = self.rules.get(call.op, self.rules["pointwise"] if pointwise else None)
        if all(value.empty for value in call.tensors()):
            results: Any = [Ids.constant(shape) for shape in call.shapes]
        elif rule is not None:
            results = self._by_rule(rule, call)
        else:
            self.unknown_ops[str(node.target)] = self.unknown_ops.get(str(node.target), 0) + 1
            results = self.opaque(call, f"unknown op {node.target}")
        found = [v for v in call.tensors() if not isinstance(v, StateIds)]
        self.seen[call.module] += [v.base.flatten() for v in found]
        if isinstance(node.meta["val"], list | tuple):
            return results if isinstance(results, list) else [results] * len(call.shapes)
        return results[0] if isinstance(results, list) else results

    def _by_rule(self, rule: Rule, call: OpCall) -> Any:
        try:
            return rule(self, call)
        except (TraceError, AssertionError):
            raise
        except Exception as error:
            raise TraceError(
                f"{call.module or 'the network'}: {call.op} is used in a form that tracing does "
                f"not know ({type(error).__name__}: {error}). Please report it; until then write "
                "that line in another form"
            ) from error

    def _region(self, node: Node, env: dict[Node, Any]) -> Any:
        """A part that runs in another mode is followed; branches and loops are refused."""
        args: list[Any] = [env[a] if isinstance(a, Node) else a for a in node.args]
        bodies = [i for i, a in enumerate(args) if isinstance(a, GraphModule)]
        name = getattr(node.target, "_name", str(node.target))
        if name not in REGIONS or len(bodies) != 1:
            raise TraceError(
                f"{name_of_module(node) or 'the network'}: torch.{name} is control flow, through "
                "which a channel cannot be followed. Trace the part before and the part after it, "
                "or replace the branch by a fixed one or by torch.where"
            )
        body: Any = args[bodies[0]]
        return self._graph(body.graph, args[bodies[0] + 1 :], body)


def width(value: Ids) -> int:
    """The length of the axis that channels lie on; of axis 1 where that is not clear."""
    varying = [axis for axis in range(len(value.shape)) if value.varies(axis)]
    return value.shape[varying[0] if len(varying) == 1 else 1]


def state_aliases(model: nn.Module) -> dict[str, list[str]]:
    """Every name of each parameter and buffer, keyed by the first: tied weights have several."""
    seen: dict[int, str] = {}
    names: dict[str, list[str]] = defaultdict(list)
    pairs = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    for name, tensor in pairs:
        names[seen.setdefault(id(tensor), name)].append(name)
    return names


__all__ = [
    "NO_CHANNEL",
    "LayerTrace",
    "NormTrace",
    "OpCall",
    "Rule",
    "StateIds",
    "Tracer",
    "state_aliases",
]
