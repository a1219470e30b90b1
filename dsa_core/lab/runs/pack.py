"""Runs gathered: from their folders to a file with a line for each record."""

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
    """Add the records of all runs below a folder to a file; a run that it holds is replaced.

    Records of old get their configuration, and what they keep of the history, from the files
    beside them.

    Returns:
        Records in the file.

    Raises:
        ConfigError: there is no run, or a file is damaged, of the folder or the one to add to:
            nothing is written.
    """
    runs = [whole(path) for path in sorted(folder.rglob(FILE))]
    if not runs:
        raise ConfigError(f"no {FILE} below {folder}: give the folder that `dsa run` wrote to")
    before = find_records(into, strict=True) if into.exists() else []
    records = {r.config_hash: r for r in (*before, *runs)}
    write_lines(into, records.values())
    return len(records)


def whole(path: Path) -> Record:
    """A record with what it lacks of its configuration and its search, read from beside it.

    Raises:
        ConfigError: a file is damaged, or the history is of another network.
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
    """Trace a network by name; as the name comes out of a file, no code of others is imported."""
    return trace(models.build_known(model), models.example_input(model))
