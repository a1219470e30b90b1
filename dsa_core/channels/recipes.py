"""Weights that the forward computes from parameters: weight_norm, spectral_norm, masks, any
parametrization. What computes them is not followed; they are cut at their sources, and the trial
cut tells whether that is right (see `dsa_core.tracing`)."""

from collections import defaultdict

import torch
from torch import Tensor

from dsa_core.channels.ids import NO_CHANNEL, Ids
from dsa_core.channels.opcall import StateIds
from dsa_core.channels.program import Program, Step, Value

LAYERS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
          "linear")  # fmt: skip
PRODUCTS = ("matmul", "mm", "bmm", "einsum", "addmm", "baddbmm", "linear")  # torch counts these


class Computed(Ids):
    """A computed weight: no ids of its own, but its sources."""

    def __init__(self, shape: tuple[int, ...], sources: list[StateIds]) -> None:
        super().__init__(torch.full((1,) * len(shape), NO_CHANNEL), shape)
        self.sources = sources

    @property
    def name(self) -> str | None:
        """The source of the weight's own shape, which stands for it; None if there is none."""
        return next((s.name for s in self.sources if s.shape == self.shape), None)

    def marks(self, rows: Tensor, columns: Tensor | None) -> list[tuple[str, int, Tensor]]:
        """(source, axis, ids) wherever a source's axes look like the weight's first two.

        The ids lie along those axes, `rows` and `columns`; a bias has only one.
        """
        found = []
        for source in self.sources:
            lines = [rows] if columns is None else [rows, columns]
            if columns is not None and len(source.shape) == 1 and len(rows) != source.shape[0]:
                lines = [columns.repeat_interleave(max(source.shape[0] // len(columns), 1))]
            for axis, line in enumerate(lines[: len(source.shape)]):
                if len(line) == source.shape[axis] > 1:
                    found.append((source.name, axis, line))
        return found


def recipes(program: Program) -> tuple[dict[Value, list[Value]], set[Step]]:
    """Find the weights that are computed from parameters and buffers and used as weights alone,
    without a product of matrices, such as LoRA's: it is counted, and fixes what it makes.

    Each with its sources; and all steps that take part in computing them.
    """
    weights: dict[Value, list[Value]] = {}
    inside: set[Step] = set()
    layers = [step for step in program.steps if step.op in LAYERS]
    if all(weight.step is None for step in layers for weight in weights_of(step)):
        return weights, inside
    users, computed = users_of(program), computed_of(program)
    for weight in (weight for step in layers for weight in weights_of(step)):
        if weight.step is None or weight not in computed or turns(weight.step):
            continue
        cone = ancestors(weight)
        if any(multiplies(step) for step in cone):
            continue
        made = [value for step in cone for value in step.outputs]
        if all(user in cone or is_weight(user, v) for v in made for user in users[v]):
            sources = [g.value for g in program.given if g.kind == "state"]
            weights[weight] = [value for value in sources if cone & set(users[value])]
            inside |= cone
    return weights, inside


def weights_of(layer: Step) -> list[Value]:
    """The weight and the bias of a layer."""
    found = (layer.args["weight"], layer.args["bias"])
    return [value for value in found if isinstance(value, Value)]


def users_of(program: Program) -> dict[Value, list[Step | None]]:
    """The steps that read each tensor; None is the caller of the network."""
    users: dict[Value, list[Step | None]] = defaultdict(list)
    for step in program.steps:
        for value in step.inputs():
            users[value].append(step)
    for value in program.returned:
        users[value].append(None)
    return users


def computed_of(program: Program) -> set[Value]:
    """All that is computed from parameters and buffers alone."""
    constant = {g.value for g in program.given if g.kind == "state"}
    computed: set[Value] = set()
    for step in program.steps:
        inputs = list(step.inputs())
        if inputs and constant.issuperset(inputs):
            constant.update(step.outputs)
            computed.update(step.outputs)
    return computed


def turns(step: Step) -> bool:
    """Whether a step transposes a parameter: that is followed."""
    turning = step.op in ("t", "numpy_T", "mT", "transpose", "permute")
    return turning and all(value.step is None for value in step.inputs())


def multiplies(step: Step) -> bool:
    """Whether a step is a product of matrices."""
    return step.op in PRODUCTS and sum(len(value.shape) > 1 for value in step.inputs()) > 1


def is_weight(user: Step | None, value: Value) -> bool:
    """Whether a layer reads a tensor as its weight or bias, and not as what it transforms."""
    return user is not None and user.op in LAYERS and user.args["input"] is not value


def ancestors(value: Value) -> set[Step]:
    """The steps that a tensor is computed by."""
    found: set[Step] = set()
    waiting = [value]
    while waiting:
        step = waiting.pop().step
        if step is not None and step not in found:
            found.add(step)
            waiting += step.inputs()
    return found
