"""The parameters of a notebook: names, types, defaults, and checks of values."""

import ast
from pathlib import Path
from typing import Any, TypeAlias

import nbformat
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from dsa_core.errors import ConfigError, nearest

Value: TypeAlias = bool | int | float | str | list[Any] | dict[str, Any]
SCALARS: dict[str, Any] = {"bool": bool, "int": int, "float": float, "str": str}
LISTS: dict[str, Any] = {f"list[{name}]": list[t] for name, t in SCALARS.items()}  # type: ignore[valid-type]
TYPES = SCALARS | LISTS | {"list": list, "dict": dict}

LINE = "each as one line `name: type = value  # help`"


class Parameter(BaseModel):
    """One line of the notebook's cell tagged `parameters`: `name: type = default  # help`."""

    model_config = ConfigDict(frozen=True)

    name: str
    type: str
    default: Value
    help: str

    def fit(self, value: object) -> Value:
        """Check a value; ConfigError if it is of another type, but an int may be a float."""
        try:
            fitted: Value = TypeAdapter(TYPES[self.type]).validate_python(value, strict=True)
        except ValidationError:
            raise ConfigError(
                f"parameter {self.name!r} ({self.help or 'no help'}) must be {self.type}, "
                f"got {value!r} ({type(value).__name__})"
            ) from None
        return fitted


def parameters_of(notebook: Path) -> dict[str, Parameter]:
    """Read the parameters of a notebook without running it.

    Raises:
        ConfigError: the file is not a notebook, has no parameters, or one of them is not of the
            form `name: type = value  # help` with a type in `TYPES`.
    """
    try:
        cells = nbformat.read(notebook, as_version=4).cells
    except (OSError, ValueError, AttributeError, nbformat.ValidationError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise ConfigError(f"{notebook} cannot be read as a notebook: {reason}") from error
    tagged = [c.source for c in cells if "parameters" in c.metadata.get("tags", [])]
    return parameters_in(tagged[0] if tagged else "", notebook.name)


def parameters_in(source: str, notebook: str) -> dict[str, Parameter]:
    """Read the parameters of a cell; errors are those of `parameters_of`, and name the notebook."""
    try:
        lines = ast.parse(source).body
    except SyntaxError as error:
        raise ConfigError(f"{notebook}: the parameters are not Python: {error}") from error
    assignments = [line for line in lines if isinstance(line, ast.Assign | ast.AnnAssign)]
    if not assignments:
        raise ConfigError(f"{notebook} takes no parameters: tag one cell `parameters`, {LINE}")
    found = [read(line, source, notebook) for line in assignments]
    return {parameter.name: parameter for parameter in found}


def read(line: ast.Assign | ast.AnnAssign, source: str, notebook: str) -> Parameter:
    """One parameter, from its line of the cell."""
    if isinstance(line, ast.Assign) or line.value is None:
        raise ConfigError(f"{notebook}: `{ast.unparse(line)}` cannot be read; write {LINE}")
    name, kind = ast.unparse(line.target), ast.unparse(line.annotation)
    if kind not in TYPES:
        raise ConfigError(
            f"{notebook}: parameter {name!r} has the type {kind!r}; give it one of "
            f"{', '.join(TYPES)}"
        )
    try:
        default = ast.literal_eval(line.value)
    except ValueError:
        raise ConfigError(
            f"{notebook}: the default of parameter {name!r} must be a plain value, "
            f"got {ast.unparse(line.value)}"
        ) from None
    last = source.splitlines()[(line.end_lineno or 1) - 1].encode()  # ast counts bytes
    behind = last[line.end_col_offset :].decode()
    bare = Parameter(name=name, type=kind, default="", help=behind.partition("#")[2].strip())
    return bare.model_copy(update={"default": bare.fit(default)})


def fit_all(known: dict[str, Parameter], given: dict[str, Any]) -> dict[str, Value]:
    """All parameters of a run: the given values, and defaults for the others.

    Raises:
        ConfigError: a name is unknown (the nearest is suggested), or a value has a wrong type.
    """
    for name in given:
        if name not in known:
            raise ConfigError(f"the notebook takes no parameter {name!r}{nearest(name, known)}")
    return {n: p.fit(given[n]) if n in given else p.default for n, p in known.items()}
