"""Follow every channel, then verify by a trial cut that the graph cuts correctly.

An exported graph hides where a width was written as a number (`view(b, c // 2, 2, h, w)`,
`y / y.shape[1] ** .5`, `groups=self.channels`). So tracing trusts: it reads the graph as most
networks mean it. Then channels of all groups are cut at random on a copy, which must compute what
it computes under the mask, with the MACs that torch counts. If not, the groups to blame are found
by bisection, the known remedies are tried, and what is left stays, with the reason.
"""

import copy
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dsa_core.budget import Cost
from dsa_core.channels import ChannelGraph
from dsa_core.channels.assemble import interpret, program_for
from dsa_core.channels.export import failing_module, first_line
from dsa_core.channels.remedies import Clues, Remedies, Width
from dsa_core.errors import SurgeryError, TraceError
from dsa_core.example import Call, tensors_in
from dsa_core.masks import masked
from dsa_core.numbers_in_code import (
    attributes_near,
    holding,
    kind_of,
    numbers_near,
    span_of,
    value_of,
)
from dsa_core.surgery.cut import duplicate, prune
from dsa_core.surgery.verify import (
    TOLERANCES,
    counted,
    distance,
    in_format,
    noise,
    randomise,
    some_channels,
)
from dsa_core.training.evaluate import mode

LARGE = 50_000_000  # parameters from which the trial runs in the network's own number format
STAND_IN = 1e6  # an output as large stands for infinity, such as -1e9 in place of a masked entry
ENOUGH = 2  # failures after which an attribute of a class of modules is not tried again
CHANGED = "the cut network computes something else than the masked one"

Read = Callable[[Remedies | None], ChannelGraph]


def trace(model: nn.Module, example: Any) -> ChannelGraph:
    """Follow every channel of a network (see `dsa_core.channels.follow`), and verify it.

    Args:
        model: any network that `torch.export` accepts; it is not changed, nor is any state of a
            random generator.
        example: what it is called with: a tensor, a tuple of positional arguments, a dict of
            keyword arguments, or both as ((positional, ...), {keyword: ...}); arguments may be
            tensors, None, numbers, bools, strings, and lists, tuples and dicts of them. MACs are
            counted for one example: the first axis of the first tensor with two axes or more counts
            the examples (see `Call.batch`).

    Returns:
        A graph of which `report()` says what stays and why, also by the trial cut.

    Raises:
        TraceError: the example is none of these or does not fit the network, the network's forward
            raises, cannot be exported or copied or meets control flow, a hook of torch computes one
            of its weights, or its MACs are not those that torch counts; the message names the part.
    """
    call = Call.of(example)
    program = program_for(model, call)
    read = partial(interpret, program, model, call)
    graph = read(None)
    if not graph.prunable:
        return graph
    try:
        trial = Trial(duplicate(model), call)
    except SurgeryError as error:
        raise TraceError(str(error)) from error
    devices = sorted({t.device.index or 0 for t in call.tensors.values() if t.is_cuda})
    with torch.random.fork_rng(devices=devices):
        return replace(trial.settle(read, graph), clues=Clues())  # they hold all ids


class Trial:
    """A copy of a network that is cut at random and compared with its masked self.

    What is constant in its weights and in the example is filled with random numbers: a head of
    zeros would answer the same to all. In float64, where the network runs in it and is not large.
    """

    def __init__(self, model: nn.Module, call: Call) -> None:
        self.model, self.call = model, call
        self.forms = self._forms()
        self.failures: Counter[frozenset[str]] = Counter()  # of attributes, by their class
        self.macs: tuple[int, int] | None = None  # by our cost and by torch, of the last cut

    def settle(self, read: Read, graph: ChannelGraph) -> ChannelGraph:
        """The graph with remedies for, or without, the groups that a cut shows to be wrong."""
        next(self.forms)
        if self.fault(graph):
            graph = self.remedied_at_once(graph)
            if self.fault(graph):
                graph, wrong = self.turned(read, graph)
                for name, fault in wrong.items():
                    graph = self.remedied(graph, name, fault)
                graph = self.without_mixed_faults(graph)
        if graph.prunable and self.macs is not None and self.macs[0] != self.macs[1]:
            raise TraceError(
                f"the MACs of this network cannot be counted: of a cut one torch counts "
                f"{self.macs[1]}, our rules {self.macs[0]}. {odd_macs(graph)}"
            )
        return graph

    def fault(self, graph: ChannelGraph, names: Iterable[str] | None = None) -> str:
        """What is wrong when some groups, or all, are cut at random; empty if nothing."""
        keep = some_channels(graph, None if names is None else set(names))
        while True:
            try:
                with masked(self.model, graph, keep.to(self._weight())):
                    wanted = self._run(self.model)
                if not any(bool(t.isnan().any()) for t in wanted) or not next(self.forms, None):
                    break
            except Exception as error:
                if not next(self.forms, None):
                    where = failing_module(self.model, error)
                    raise TraceError(f"the network cannot be run: {where}: {error}") from error
        return self._compare(graph, keep, wanted)

    def _compare(self, graph: ChannelGraph, keep: Tensor, wanted: list[Tensor]) -> str:
        pruned = self.model
        try:
            pruned = prune(self.model, graph, keep)
            found, macs = counted(partial(self._run, pruned))
        except Exception as error:
            where = failing_module(pruned, error)
            return f"the cut network cannot run: {where}: {first_line(error)}"
        counts = [int(keep[g.start : g.start + g.size].sum()) for g in graph.prunable]
        self.macs = Cost.of(graph, "macs").at(torch.tensor(counts)), macs // self.call.batch
        sizes = [t.abs()[t.abs() < STAND_IN] for t in wanted]
        scale = max((float(size.max()) for size in sizes if size.numel()), default=0.0)
        tolerance = TOLERANCES.get(self._weight().dtype, 1e-2)
        same = len(found) == len(wanted) and all(
            distance(a, b, least=max(1e-3 * scale, 1e-30)) <= tolerance
            for a, b in zip(wanted, found, strict=True)
        )
        return "" if same else CHANGED

    def culprits(self, graph: ChannelGraph) -> dict[str, str]:
        """The groups that are wrong when cut alone, with their faults, by bisection; those of alike
        blocks side by side, for mostly all of them are right or all wrong."""

        def search(names: Sequence[str]) -> Iterator[tuple[str, str]]:
            fault = self.fault(graph, names) if names else ""
            if fault and len(names) == 1:
                yield names[0], fault
            elif fault:
                yield from search(names[: len(names) // 2])
                yield from search(names[len(names) // 2 :])

        return dict(search(sorted([g.name for g in graph.prunable], key=unnumbered)))

    def turned(self, read: Read, graph: ChannelGraph) -> tuple[ChannelGraph, dict[str, str]]:
        """Read the views of wrong groups the other way, where that makes them right; and the groups
        that are still wrong."""
        before, culprits = graph.remedies.turned, self.culprits(graph)
        first = tuple(v for v in views_of(graph, culprits) if v not in before)
        if not first:
            return graph, culprits
        other = read(Remedies(turned=before + first))
        wrong = views_of(other, self.culprits(other))
        right = [v for v in first if v not in wrong and bool((other.clues.on_view(v) >= 0).any())]
        if not right:
            return graph, culprits
        graph = read(Remedies(turned=(*before, *right)))
        return graph, self.culprits(graph)

    def remedied_at_once(self, graph: ChannelGraph) -> ChannelGraph:
        """Set the numbers that are counts of channels, or of heads, in all modules that handle
        them, and widths of axes; the graph as it is, if that does not make it right."""
        counts: dict[str, Width] = {}
        exact: dict[str, Width] = {}
        for group in graph.prunable:
            for name, width in numbers_near(self.model, graph, group.name, above=False).items():
                if value_of(self.model, name) == group.size:
                    counts[name] = width
                elif width.divisor == 1:
                    exact[name] = width
        for widths in (counts, exact, counts | exact):
            tried = with_remedies(graph, attributes=widths)
            if widths and not self.fault(tried):
                return self.needed(graph, tried)
        return graph

    def needed(
        self, graph: ChannelGraph, tried: ChannelGraph, names: Iterable[str] | None = None
    ) -> ChannelGraph:
        """Of the numbers that are newly set, by their class, only those without which the cut is
        wrong: others are as large as a width by chance."""
        kinds: dict[str, set[str]] = {}
        for attribute in tried.remedies.attributes.keys() - graph.remedies.attributes.keys():
            kinds.setdefault(kind_of(self.model, attribute), set()).add(attribute)
        for kind in sorted(kinds) if len(kinds) > 1 else ():
            some = tried.remedies.attributes.items()
            fewer = with_remedies(tried, attributes={a: w for a, w in some if a not in kinds[kind]})
            if not self.fault(fewer, names):
                tried = fewer
        return tried

    def remedied(self, graph: ChannelGraph, name: str, fault: str) -> ChannelGraph:
        """Set whole numbers of modules that stand for the width of a group; or freeze it."""
        for widths in attributes_near(self.model, graph, name):
            kind = frozenset(kind_of(self.model, attribute) for attribute in widths)
            if self.failures[kind] >= ENOUGH:
                continue
            attributes = {**graph.remedies.attributes, **widths}
            tried = with_remedies(graph, attributes=attributes)
            if not self.fault(tried, [name]):
                return self.needed(graph, tried, [name])
            self.failures[kind] += 1
        return frozen(graph, {name: fault + parametrized(graph, name) * (fault == CHANGED)})

    def without_mixed_faults(self, graph: ChannelGraph) -> ChannelGraph:
        """Freeze groups that are right alone and wrong together, last first, until all is well."""
        while graph.prunable and (fault := self.fault(graph)):
            names = [g.name for g in graph.prunable]
            low, high = 0, len(names)  # the first `low` are right, the first `high` are wrong
            while high - low > 1:
                middle = (low + high) // 2
                wrong = self.fault(graph, names[:middle])
                low, high, fault = (low, middle, wrong) if wrong else (middle, high, fault)
            graph = frozen(graph, {names[high - 1]: fault})
        return graph

    def _weight(self) -> Tensor:
        return next(p for p in self.model.parameters() if p.is_floating_point())

    def _run(self, model: nn.Module) -> list[Tensor]:
        torch.manual_seed(0)
        with torch.no_grad(), mode(model, training=False):
            call = self.call.map(torch.clone)  # which a forward may change in place
            return [t.clone() for t in tensors_in(call(model))]

    def _forms(self) -> Iterator[bool]:
        """Put the copy and the example into one form after the other, until one can be run."""
        given, own = self.call, self._weight().dtype
        state = copy.deepcopy(self.model.state_dict())
        torch.manual_seed(0)
        randomise(self.model)
        if sum(p.numel() for p in self.model.parameters()) < LARGE:
            self.model._apply(partial(in_format, dtype=torch.float64))
            tables = [m.num_embeddings for m in self.model.modules() if isinstance(m, nn.Embedding)]
            for below in dict.fromkeys((min(tables, default=0), 0)):
                self.call = given.map(partial(noise, dtype=torch.float64, below=below))
                yield True
        self.model._apply(partial(in_format, dtype=own))  # `to` drops imaginary parts
        self.call = given.map(partial(noise, dtype=own))
        yield True
        self.model.load_state_dict(state)
        self.call = given
        yield True


def unnumbered(name: str) -> str:
    """What the names of alike groups have in common."""
    return re.sub(r"\d+", "", name)


def views_of(graph: ChannelGraph, names: Iterable[str]) -> tuple[int, ...]:
    """The views that cut the axis of one of these groups in two, by their number."""
    places = set[int]().union(*(span_of(graph, name) for name in names))
    clues = graph.clues
    return tuple(i for i in range(len(clues.views)) if places & set(clues.on_view(i).tolist()))


def with_remedies(graph: ChannelGraph, **changes: Any) -> ChannelGraph:
    """The graph with other remedies noted."""
    return replace(graph, remedies=graph.remedies.model_copy(update=changes))


def frozen(graph: ChannelGraph, faults: Mapping[str, str]) -> ChannelGraph:
    """The graph without some groups, and that noted."""
    reasons = {name: f"trial cut: {fault}" for name, fault in faults.items()}
    noted = {**graph.remedies.frozen, **reasons}
    return with_remedies(graph.freeze(reasons), frozen=noted)


def parametrized(graph: ChannelGraph, name: str) -> str:
    """What to do where a weight that holds a group's channels is computed from others."""
    tensors = {tensor for tensor, _ in holding(graph, name) if ".parametrizations." in tensor}
    modules = ", ".join(sorted({t.partition(".parametrizations.")[0] for t in tensors}))
    return f"; parametrized: {modules}: remove_parametrizations may free it" if modules else ""


def odd_macs(graph: ChannelGraph) -> str:
    """Where MACs that were not counted may be."""
    if graph.unknown_ops:
        return f"No rule knows {', '.join(graph.unknown_ops)}: keep that part out of the network"
    return "Does a part run once for the whole batch? Then give an example of one"
