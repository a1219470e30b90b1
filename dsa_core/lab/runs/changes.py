"""Change single settings of a preset by their path, such as search.ratio_every=10."""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from dsa_core.errors import ConfigError, first_problem, nearest
from dsa_core.lab.runs.preset import Preset


def changed(preset: Preset, changes: Mapping[str, str]) -> Preset:
    """A preset with some settings changed.

    Args:
        preset: to start from.
        changes: path -> value as text, parsed as YAML; a path is dotted, such as
            "search.train.epochs" or "search.ssl.strength".

    Raises:
        ConfigError: there is no such setting (the nearest is suggested), or the value is invalid.
    """
    settings = preset.model_dump()
    for path, text in changes.items():
        check_path(path)
        place(settings, path, read(path, text))
    try:
        return Preset.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(f"setting {first_problem(error)}") from None


def check_path(path: str) -> None:
    """Refuse a path that is neither a setting, nor a group of settings, nor inside one.

    Raises:
        ConfigError: suggests the paths that end in the same name ("epochs": dense.epochs,
            search.train.epochs or fine_tune.epochs), else the nearest path.
    """
    known = list(dict.fromkeys(paths(Preset)))
    if any(f"{each}.".startswith(f"{path}.") or path.startswith(f"{each}.") for each in known):
        return
    name = path.rpartition(".")[2].casefold()
    same = [each for each in known if each.rpartition(".")[2].casefold() == name]
    hint = f": did you mean {' or '.join(map(repr, same))}?"
    if not same:
        hint = nearest(path, known, otherwise="config.json of a run lists those in use")
    raise ConfigError(f"no setting {path!r}{hint}")


def paths(settings: type[BaseModel], above: str = "") -> Iterator[str]:
    """The paths of all settings of a model, including those of groups left at their defaults."""
    for name, field in settings.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        inner = [t for t in kinds if isinstance(t, type) and issubclass(t, BaseModel)]
        for each in inner:
            yield from paths(each, f"{above}{name}.")
        if not inner:
            yield f"{above}{name}"


def read(path: str, text: str) -> Any:
    """The value of a setting."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"setting {path}: {text!r} is not valid YAML") from None


def place(settings: dict[str, Any], path: str, value: Any) -> None:
    """Put a value at its path; groups left at their defaults are created."""
    *above, name = path.split(".")
    here = settings
    for part in above:
        here[part] = here = here.get(part) or {}
        if not isinstance(here, dict):
            raise ConfigError(f"no setting {path!r}: {part} holds no settings")
    here[name] = value


def named(preset: str, changes: Mapping[str, str]) -> str:
    """The preset's name with the changes, which distinguishes rows of a table."""
    return " ".join([preset, *(f"{path}={text}" for path, text in sorted(changes.items()))])
