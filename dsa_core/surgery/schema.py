"""What `architecture.json` and `sparse.json` may say: each entry with its type and its limits.

A file may come from a stranger. The limits are far above any network that is pruned here, and far
below what would fill a machine's memory.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from dsa_core.channels.remedies import MAX_CHANNELS, Name, Remedies, Whole

MAX_SIDE = 1 << 24  # of an input, in one dimension
MAX_ELEMENTS = 1 << 27  # of all inputs, or of a weight: 512 MiB in float32
MAX_DEPTH = 20  # of lists in lists in the arguments of a call

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]


def check_size(*shapes: Sequence[int]) -> None:
    """Refuse tensors that would fill the memory."""
    elements = sum(math.prod(shape) for shape in shapes)
    if elements > MAX_ELEMENTS:
        raise ValueError(f"tensors of {elements} elements, allowed are {MAX_ELEMENTS}")


def small(shape: list[int]) -> list[int]:
    """One shape, checked."""
    check_size(shape)
    return shape


Shape = Annotated[list[Side], Field(max_length=8), AfterValidator(small)]


class Part(BaseModel):
    """Nothing is converted: true is no number, and 3.0 no count."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class KeptGroup(Part):
    """One prunable group.

    Attributes:
        size: channels of the dense network, at least 1.
        kept: those that stay, rising, in [0, size); at least one.
    """

    size: int = Field(ge=1, le=MAX_CHANNELS)
    kept: list[Whole] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> "KeptGroup":
        if any(a >= b for a, b in zip(self.kept, self.kept[1:], strict=False)):
            raise ValueError("kept must rise, each channel once")
        if self.kept[-1] >= self.size:
            raise ValueError(f"kept must lie below the size, {self.size}")
        return self


class Argument(Part):
    """A tensor that the network is called with: its shape, and its type as torch names it."""

    tensor: list[Annotated[int, Field(ge=0, le=MAX_SIDE)]] = Field(max_length=8)
    dtype: Name

    @model_validator(mode="after")
    def _known(self) -> "Argument":
        if not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ValueError(f"dtype {self.dtype!r} is none of torch")
        return self


class Example(Part):
    """The form of a call, as `Call.describe` gives it.

    Attributes:
        args, kwargs: plain values; tensors as `Argument`, and lists, tuples and dicts by name.
    """

    args: list[Any]
    kwargs: dict[Name, Any]

    @model_validator(mode="after")
    def _small(self) -> "Example":
        packed = [*self.args, *self.kwargs.values()]
        check_size(*(a.tensor for value in packed for a in arguments(value)))
        return self


class Cut(Part):
    """One cut: what the network was called with to trace it, and what each group kept.

    Older files have no remedies.
    """

    example: Example
    groups: dict[Name, KeptGroup]
    remedies: Remedies = Remedies()


class TensorFacts(Part):
    """One tensor of the file of weights: its shape, its type as torch names it, its digest."""

    shape: list[Annotated[int, Field(ge=0)]]
    dtype: Name
    sha256: Digest


class Facts(Part):
    """What both files say; entries that are not named here are passed over.

    Attributes:
        format: of this layout; whether it is read here is for the reader to say.
        model: name of the dense network, as `build_known` knows it, or any label.
        num_classes: its outputs, in [1, 2^20].
        input_shape: of a batch, each side in [1, 2^24], at most 2^27 elements.
        tensors: by name.
        versions: of what wrote it.
        sha256: digest of each entry.
    """

    format: int = Field(ge=1)
    model: Name
    num_classes: int = Field(ge=1, le=MAX_CHANNELS)
    input_shape: Shape
    tensors: dict[Name, TensorFacts]
    versions: dict[Name, Name]
    sha256: dict[Name, Digest]


class Architecture(Facts, Cut):
    """`architecture.json`, see `save`: the last cut, and `earlier` ones, first to last."""

    earlier: list[Cut] = Field(default=[], max_length=1000)

    @model_validator(mode="before")
    @classmethod
    def _with_example(cls, found: Any) -> Any:
        if not isinstance(found, dict) or "input_shape" not in found:
            return found
        tensor = {"tensor": found["input_shape"], "dtype": "float32"}  # all that older files know
        return {"example": {"args": [tensor], "kwargs": {}}, **found}


class Sparse(Facts):
    """`sparse.json`, see `save_sparse`.

    Attributes:
        shapes: of each weight of which single entries were kept; at most 2^27 entries each.
    """

    shapes: dict[Name, Shape]


def arguments(value: Any, depth: int = 0) -> Iterator[Argument]:
    """Every tensor in a packed value (see `dsa_core.example.pack`), checked."""
    if depth > MAX_DEPTH:
        raise ValueError(f"an argument is nested more than {MAX_DEPTH} deep")
    if value is None or isinstance(value, bool | int | float | str):
        return
    if isinstance(value, dict) and "tensor" in value:
        yield Argument.model_validate(value)
        return
    one = isinstance(value, dict) and len(value) == 1
    kind, items = next(iter(value.items())) if one else ("", None)
    if kind == "dict" and isinstance(items, list) and all(is_pair(item) for item in items):
        items = [item for _, item in items]
    elif kind not in ("list", "tuple") or not isinstance(items, list):
        raise ValueError(f"an argument is a {type(value).__name__} of an unknown form")
    for item in items:
        yield from arguments(item, depth + 1)


def is_pair(item: Any) -> bool:
    """Whether an entry of a packed dict is [key, value], with a key that may be one."""
    return isinstance(item, list) and len(item) == 2 and isinstance(item[0], str | int)
