"""Pack the records of runs from their folders into one file, one per line."""

import json
from functools import cache
from pathlib import Path

from dsa_core.channels import ChannelGraph
from dsa_core.errors import ConfigError
from dsa_core.lab import models
from dsa_core.lab.record import Record
from dsa_core.lab.record_files import FILE, find_records, read_record, write_lines
from dsa_core.lab.runs.folder import CONFIG
from dsa_core.lab.runs.history import HISTORY, search_record
from dsa_core.tracing import trace


def pack(folder: Path, into: Path) -> int:
    """Add the records of all runs below a folder to a file, replacing runs already in it.

    Older records get their configuration and search path from the files beside them.

    Returns:
        Number of records in the file.

    Raises:
        ConfigError: there is no run, or a file is damaged; nothing is written.
    """
    runs = [whole(path) for path in sorted(folder.rglob(FILE))]
    if not runs:
        raise ConfigError(f"no {FILE} below {folder}: give a folder written by `dsa run`")
    before = find_records(into, strict=True) if into.exists() else []
    records = {r.config_hash: r for r in (*before, *runs)}
    write_lines(into, records.values())
    return len(records)


def whole(path: Path) -> Record:
    """A record, completed from the configuration and history beside it.

    Raises:
        ConfigError: a file is damaged, or the history belongs to another network.
    """
    record, changes = read_record(path), {}
    config, history = path.with_name(CONFIG), path.with_name(HISTORY)
    try:
        if not record.config and config.exists():
            changes["config"] = json.loads(config.read_bytes())
        if record.search is None and history.exists():
            found = json.loads(history.read_bytes())
            if found["groups"] != [g.name for g in record.groups]:
                raise ValueError("its groups are not those of the record")
            changes["search"] = search_record(found, graph_of(record.model))
        return Record.model_validate(dict(record) | changes)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path.parent}: {CONFIG} or {HISTORY} is damaged: {error}") from error


@cache
def graph_of(model: str) -> ChannelGraph:
    """Trace a network by name; the name comes from a file, so no user code is imported."""
    return trace(models.build_known(model), models.example_input(model))
