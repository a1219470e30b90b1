"""Single settings of a preset changed by their path, such as search.ratio_every=10."""

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import ValidationError

from dsa_core.errors import ConfigError, nearest
from dsa_core.lab.runs.presets import Preset


def changed(preset: Preset, changes: Mapping[str, str]) -> Preset:
    """A preset with some settings changed.

    Args:
        preset: to start from.
        changes: path -> value as text, read as YAML; a path is names with dots between, such as
            "search.train.epochs" or "search.ssl.strength".

    Raises:
        ConfigError: there is no such setting (the nearest is suggested), or the value does not fit.
    """
    settings = preset.model_dump()
    for path, text in changes.items():
        place(settings, path, read(path, text))
    try:
        return Preset.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(reason(error, settings)) from None


def reason(error: ValidationError, settings: dict[str, Any]) -> str:
    """What is wrong with the first setting that does not fit."""
    first = error.errors()[0]
    *above, name = (str(part) for part in first["loc"])
    where = ".".join([*above, name])
    if first["type"] != "extra_forbidden":
        return f"setting {where}: {first['msg']}, got {first['input']!r}"
    for part in above:
        settings = settings.get(part, {})
    return f"no setting {where!r}{nearest(name, set(settings) - {name})}"


def read(path: str, text: str) -> Any:
    """The value of a setting."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"setting {path}: {text!r} is no value; YAML is read") from None


def place(settings: dict[str, Any], path: str, value: Any) -> None:
    """Put a value at its path; groups of settings that are at their defaults are opened."""
    *above, name = path.split(".")
    here = settings
    for part in above:
        if part not in here and here is settings:
            raise ConfigError(f"no setting {path!r}{nearest(part, here)}")
        inner = here.setdefault(part, {})
        here[part] = here = {} if inner is None else inner
        if not isinstance(here, dict):
            raise ConfigError(f"no setting {path!r}: {part} holds no settings")
    here[name] = value


def named(preset: str, changes: Mapping[str, str]) -> str:
    """The preset's name with what was changed, to tell rows of a table apart."""
    return " ".join([preset, *(f"{path}={text}" for path, text in sorted(changes.items()))])
