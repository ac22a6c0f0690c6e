"""The order in which `check` looks: file, database, permissions, sources, audiences, mappings, ingest, Schematic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, nullcontext
from pathlib import Path

from audience_sync.checks import audiences, database, destination, file, identifiers, ingest, mappings, permissions
from audience_sync.checks.finding import Finding, error
from audience_sync.clock import Seams
from audience_sync.config import find_config, load
from audience_sync.errors import ConfigError


def check(named: Path | None, environ: Mapping[str, str], seams: Seams, *, deep: bool = False) -> Iterator[Finding]:
    """Look at everything that the configuration speaks of, and yield what was found, as it is found.

    The file is the one that is `named`, or where `config.find_config` finds it. With `deep` every membership is read,
    to compare all of them with the digest that the last sync left.
    """
    subject = str(named or "config.toml")
    try:
        path = find_config(named, environ)
        subject = str(path.absolute())
        settings = load(path, environ)
    except ConfigError as refused:
        yield error("configuration", subject, refused)
        return
    yield from file.look(settings, environ)
    opened = yield from database.look(settings)
    with closing(opened) if opened is not None else nullcontext() as usable:
        yield from permissions.look(settings)  # while the files are there that SQLite keeps next to an open database
        yield from audiences.look(settings, usable, now=seams.clock())
        yield from mappings.look(settings, usable)
        yield from ingest.look(settings, environ)
        if usable is not None:
            yield from identifiers.look(usable)
        if deep and usable is not None:
            from audience_sync.checks import memberships  # noqa: PLC0415 - DuckDB is slow to import

            yield from memberships.look(usable)
        yield from destination.look(settings, environ, database=usable, now=seams.clock)
