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
        """Validate a value strictly; the only conversion is from int to float.

        Raises:
            ConfigError: it is of another type.
        """
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
    return parameters_in(parameters_cell(notebook), notebook)


def parameters_in(cell: nbformat.NotebookNode, notebook: Path) -> dict[str, Parameter]:
    """Read the parameters of a cell; errors are those of `parameters_of`, and name the notebook."""
    from papermill.translators import PythonTranslator  # takes seconds to import

    names = assigned(cell, notebook)
    if not names:
        raise ConfigError(f"{notebook.name} takes no parameters: tag one cell `parameters`, {LINE}")
    found = {info.name: info for info in PythonTranslator.inspect(cell)}
    for name in names:
        if name not in found:
            raise ConfigError(f"{notebook.name}: parameter {name!r} cannot be read; write {LINE}")
    return {name: read(notebook, info) for name, info in found.items()}


def parameters_cell(notebook: Path) -> nbformat.NotebookNode:
    """The cell tagged `parameters`; an empty one if there is none.

    Raises:
        ConfigError: the file is not a notebook.
    """
    try:
        cells = nbformat.read(notebook, as_version=4).cells
    except (OSError, ValueError, AttributeError, nbformat.ValidationError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise ConfigError(f"{notebook} cannot be read as a notebook: {reason}") from error
    tagged = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    return tagged[0] if tagged else nbformat.v4.new_code_cell("")


def assigned(cell: nbformat.NotebookNode, notebook: Path) -> list[str]:
    """Every name assigned in the cell; papermill skips lines it does not understand."""
    try:
        lines = ast.parse(cell.source).body
    except SyntaxError as error:
        raise ConfigError(f"{notebook.name}: the parameters are not Python: {error}") from error
    targets = [
        target
        for line in lines
        if isinstance(line, ast.Assign | ast.AnnAssign)
        for target in (line.targets if isinstance(line, ast.Assign) else [line.target])
    ]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def read(notebook: Path, info: Any) -> Parameter:
    """One parameter, from what papermill inspected (all as text)."""
    name, kind = info.name, info.inferred_type_name
    if kind not in TYPES:
        raise ConfigError(
            f"{notebook.name}: parameter {name!r} has the type {kind!r}; give it one of "
            f"{', '.join(TYPES)}"
        )
    try:
        default = ast.literal_eval(info.default)
    except (ValueError, SyntaxError):
        raise ConfigError(
            f"{notebook.name}: the default of parameter {name!r} must be a plain value, "
            f"got {info.default}"
        ) from None
    bare = Parameter(name=name, type=kind, default="", help=info.help)
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
