"""What a network is called with, and the tensors in what it returns."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_map_only

from dsa_core.errors import TraceError

ACCEPTED = (
    "a tensor, a tuple of positional arguments, a dict of keyword arguments, or both as "
    "((positional, ...), {keyword: ...})"
)
PLAIN = (Tensor, bool, int, float, str, type(None), torch.Size)  # what an argument may be made of


@dataclass(frozen=True)
class Call:
    """The arguments of one call of a network, `model(*args, **kwargs)`.

    Attributes:
        args: positional arguments: tensors, None, numbers, bools, strings, or nested lists, tuples
            and dicts of them.
        kwargs: keyword arguments, of the same kinds.

    Raises:
        TraceError: an argument is of another kind, or none holds a tensor.
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.leaves():
            if not isinstance(value, PLAIN):
                raise TraceError(
                    f"example: {name} is {described(value)}; an argument is made of tensors, None, "
                    f"numbers, bools and strings, in lists, tuples and dicts{hint(value)}"
                )
        if not self.tensors:
            raise TraceError(f"example holds no tensor: pass {ACCEPTED}")

    @staticmethod
    def of(example: Any) -> "Call":
        """Read an example: a tensor, a tuple of positional arguments, a dict of keyword arguments,
        or both as a pair of a tuple and a dict; a TraceError says what is accepted.
        """
        if isinstance(example, Call):
            return example
        if isinstance(example, Tensor):
            return Call((example,))
        if isinstance(example, Mapping):
            return Call((), with_names(example))
        if isinstance(example, tuple | list) and example and all(type(n) is int for n in example):
            shape = ", ".join(map(str, example))
            raise TraceError(
                f"example is a shape, {tuple(example)}: pass a tensor, such as torch.zeros({shape})"
            )
        if not isinstance(example, tuple):
            raise TraceError(f"example is {described(example)}: pass {ACCEPTED}{hint(example)}")
        if len(example) == 2 and isinstance(example[0], tuple) and isinstance(example[1], Mapping):
            return Call(example[0], with_names(example[1]))
        return Call(example)

    def __call__(self, model: nn.Module) -> Any:
        """Run a network on these arguments."""
        return model(*self.args, **self.kwargs)

    def leaves(self) -> Iterator[tuple[str, Any]]:
        """Every plain value with its place, such as "args[0]" or "boxes['left'][1]"."""
        for name, value in (("args", self.args), *self.kwargs.items()):
            for path, leaf in tree_flatten_with_path(value, is_plain)[0]:
                yield name + keystr(path), leaf

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its place, positional ones first."""
        return {name: value for name, value in self.leaves() if isinstance(value, Tensor)}

    @property
    def first_tensor(self) -> Tensor:
        """The first tensor."""
        return next(iter(self.tensors.values()))

    @property
    def batch(self) -> int:
        """Examples in the call: the first axis of the first tensor with two axes or more; 1 if none
        has two.

        Tensors of no axis aside, all must then have the same first axis. A call of one example is
        exempt: in it a tensor that the examples share (a mask, positions) may be of any length.

        Raises:
            TraceError: the first axes differ; names both tensors.
        """
        rows = {name: len(tensor) for name, tensor in self.tensors.items() if tensor.ndim}
        first = next((name for name, tensor in self.tensors.items() if tensor.ndim > 1), None)
        batch = 1 if first is None else rows[first]
        other = next((name for name, n in rows.items() if n != batch), None)
        if batch != 1 and other is not None:
            raise TraceError(
                f"example: the first axis of {first} is {batch} long, that of {other} "
                f"{rows[other]}: which of them counts the examples is not known. Give a batch of "
                f"one example, with a first axis of 1 in {first}"
            )
        return batch

    def map(self, change: Callable[[Tensor], Tensor]) -> "Call":
        """The same call with every tensor changed, in the order of `tensors`."""
        return Call(*tree_map_only(Tensor, change, (self.args, self.kwargs), is_leaf=is_plain))

    def describe(self) -> dict[str, Any]:
        """Shapes, types and structure, without the numbers in tensors, as plain data for JSON."""
        kwargs = {name: pack(value) for name, value in self.kwargs.items()}
        return {"args": [pack(value) for value in self.args], "kwargs": kwargs}

    @staticmethod
    def zeros(description: Mapping[str, Any], model: nn.Module) -> "Call":
        """A call of the form that `describe` gave, with tensors of zeros.

        They are on the device of the model; floating ones in its floating type.
        """
        weights = list(model.parameters())
        device = weights[0].device if weights else torch.device("cpu")
        floating = next((w.dtype for w in weights if w.is_floating_point()), None)
        args = (unpack(value, device, floating) for value in description["args"])
        kwargs = {n: unpack(v, device, floating) for n, v in description["kwargs"].items()}
        return Call(tuple(args), kwargs)


def with_names(arguments: Mapping[Any, Any]) -> dict[str, Any]:
    """Keyword arguments, whose names must be strings."""
    for name in arguments:
        if not isinstance(name, str):
            raise TraceError(f"example: a keyword argument is named by a string, not by {name!r}")
    return dict(arguments)


def described(value: Any) -> str:
    """A value's type and, where it has one, its shape."""
    kind = f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
    shape = f" and shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
    return f"of type {kind}{shape}"


def hint(value: Any) -> str:
    """What to do with a type that often comes in place of a tensor."""
    if type(value).__module__ == "numpy":
        return ". Convert it with torch.from_numpy"
    return ". Positional arguments are a tuple: tuple(example)" if isinstance(value, list) else ""


def pack(value: Any) -> Any:
    """A value as plain data for JSON; of a tensor only the shape and the type."""
    if isinstance(value, Tensor):
        return {"tensor": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, dict):
        return {"dict": [[key, pack(item)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list" if isinstance(value, list) else "tuple": [pack(item) for item in value]}
    return value


def unpack(value: Any, device: torch.device, floating: torch.dtype | None) -> Any:
    """A value from plain data; a tensor is of zeros, a floating one of the given type."""
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        dtype: torch.dtype = getattr(torch, value["dtype"])
        dtype = floating if floating and dtype.is_floating_point else dtype
        return torch.zeros(value["tensor"], dtype=dtype, device=device)
    if "dict" in value:
        return {key: unpack(item, device, floating) for key, item in value["dict"]}
    ((name, items),) = value.items()
    made = (unpack(item, device, floating) for item in items)
    return list(made) if name == "list" else tuple(made)


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor in what a network returns: in lists, tuples, dicts and the fields of objects.

    An output class of one's own need not be known to torch's pytree.
    """
    found: list[Tensor] = []
    collect(value, found, set())
    return found


def collect(value: Any, found: list[Tensor], seen: set[int]) -> None:
    """Append the tensors of a value; what was seen before is not entered again."""
    if isinstance(value, Tensor):
        found.append(value)
        return
    if id(value) in seen or isinstance(value, type | nn.Module):
        return
    seen.add(id(value))
    if isinstance(value, Mapping):
        parts = list(value.values())
    elif isinstance(value, list | tuple | set):
        parts = list(value)
    elif is_dataclass(value):
        parts = [getattr(value, f.name) for f in fields(value)]
    else:
        parts = list(vars(value).values()) if hasattr(value, "__dict__") else []
    for part in parts:
        collect(part, found, seen)


def is_plain(value: Any) -> bool:
    """Whether a value is no list, tuple or dict; other classes that pytree knows stay whole."""
    return not isinstance(value, list | tuple | dict)
