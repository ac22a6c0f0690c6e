"""Run all checks in order: file, database, permissions, sources, audiences, mappings, ingest, Schematic, hooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, nullcontext
from pathlib import Path

from audience_sync.checks import (
    check_audiences,
    check_configuration,
    check_database,
    check_destination,
    check_hooks,
    check_mappings,
    check_permissions,
    check_shared_identifiers,
    check_tracking_api,
)
from audience_sync.checks.finding import Finding, error
from audience_sync.clock import Clock
from audience_sync.config import load
from audience_sync.config_path import find_config
from audience_sync.errors import ConfigError


def check(named: Path | None, environ: Mapping[str, str], clock: Clock, *, deep: bool = False) -> Iterator[Finding]:
    """Check everything in the configuration, and yield findings as they are made.

    The file is the `named` one, or the one that `config_path.find_config` finds. With `deep`, every membership is read
    and compared with the digest of the last sync.
    """
    subject = str(named or "config.toml")
    try:
        path = find_config(named, environ)
        subject = str(path.absolute())
        settings = load(path, environ)
    except ConfigError as refused:
        yield error("configuration", subject, refused)
        return
    yield from check_configuration.look(settings, environ)
    opened = yield from check_database.look(settings)
    with closing(opened) if opened is not None else nullcontext() as usable:
        yield from check_permissions.look(settings)  # while SQLite keeps its files next to the open database
        yield from check_audiences.look(settings, usable, now=clock.now())
        yield from check_mappings.look(settings, usable)
        yield from check_tracking_api.look(settings, environ)
        if usable is not None:
            yield from check_shared_identifiers.look(usable, settings.destination.display_name)
        if deep and usable is not None:
            from audience_sync.checks import check_members  # noqa: PLC0415 - DuckDB is slow to import

            yield from check_members.look(usable)
        yield from check_destination.look(settings, environ, database=usable, now=clock.now)
        yield from check_hooks.look(settings, environ, now=clock.now)
