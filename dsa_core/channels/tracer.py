"""Run a network once on channel ids instead of numbers: abstract interpretation of its graph."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from dsa_core.channels.graph import Layer, Norm
from dsa_core.channels.ids import IdBook, Ids
from dsa_core.channels.opcall import OpCall, StateIds, bound
from dsa_core.channels.program import Given, Program, Step, Value, signature
from dsa_core.channels.recipes import Computed, recipes
from dsa_core.errors import TraceError

ONLY_SHAPES = (
    "_assert_tensor_metadata",
    "sym_size",
    "sym_numel",
    "sym_stride",
    "sym_is_contiguous",
)


Rule = Callable[["Tracer", OpCall], Any]


@dataclass
class Tracer:
    """The state of one interpretation: ids given out so far, and what was learned.

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
            them equally.
        seen: path of a module -> the ids that its own operators handled.
    """

    rules: dict[str, Rule]
    aliases: Mapping[str, str]
    book: IdBook = field(default_factory=IdBook)
    axes: dict[str, dict[int, Tensor]] = field(default_factory=lambda: defaultdict(dict))
    elements: dict[str, StateIds] = field(default_factory=dict)
    layers: dict[str, Layer] = field(default_factory=dict)
    norms: list[Norm] = field(default_factory=list)
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

    def run(self, program: Program) -> None:
        """Interpret the whole program, then freeze what leaves the network."""
        env: dict[Value, Any] = {g.value: self._given(g) for g in program.given}
        computed, inside = recipes(program)
        for weight, sources in computed.items():
            env[weight] = Computed(weight.shape, [env[source] for source in sources])
        used = {*program.returned, *(v for step in program.steps for v in step.inputs())}
        states = (env[g.value] for g in program.given if g.kind == "state" and g.value in used)
        self.read.update(state.name for state in states)
        for step in program.steps:
            if step not in inside:
                env.update(zip(step.outputs, self._call(step, env, used), strict=True))
        values = [env[value] for value in program.returned]
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

    def _given(self, given: Given) -> Ids:
        shape = given.value.shape
        if given.kind == "input":
            return self.frozen_ids(shape, "network input")
        if given.kind == "constant":
            return self.fixed(shape)
        name = self.aliases.get(given.name, given.name)
        return self.elements.setdefault(name, StateIds(self.book, shape, name))

    def _call(self, step: Step, env: dict[Value, Any], used: set[Value]) -> list[Ids]:
        call = bound(step, env, used)
        if not call.shapes:
            if call.tensors() and call.op not in ONLY_SHAPES:
                self.opaque(call, f"{call.op} reads values")
            return []
        pointwise = signature(step.target).pointwise
        rule = self.rules.get(call.op, self.rules["pointwise"] if pointwise else None)
        if all(value.empty for value in call.tensors()):
            results: Any = [Ids.constant(shape) for shape in call.shapes]
        elif rule is not None:
            results = self._by_rule(rule, call)
        else:
            self.unknown_ops[str(step.target)] = self.unknown_ops.get(str(step.target), 0) + 1
            results = self.opaque(call, f"unknown op {step.target}")
        found = [v for v in call.tensors() if not isinstance(v, StateIds)]
        self.seen[call.module] += [v.base for v in found]
        listed = results if isinstance(results, list) else [results] * len(call.shapes)
        return listed if step.listed else listed[:1]

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


def width(value: Ids) -> int:
    """The length of the axis that channels lie on; of axis 1 where that is not clear."""
    varying = [axis for axis in range(len(value.shape)) if value.varies(axis)]
    return value.shape[varying[0] if len(varying) == 1 else 1]


def state_aliases(model: nn.Module) -> dict[str, list[str]]:
    """Every name of each parameter and buffer, keyed by the first: tied weights have several."""
    modules = list(model.named_modules(remove_duplicate=False))
    seen: dict[int, str] = {}
    names: dict[str, list[str]] = defaultdict(list)
    for kind in ("_parameters", "_buffers"):
        for path, module in modules:
            for key, tensor in vars(module)[kind].items():
                if tensor is not None:
                    name = f"{path}.{key}" if path else key
                    names[seen.setdefault(id(tensor), name)].append(name)
    return names
